#include "client/agent/exports.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"

namespace understudy::client {
namespace {

class VolumeDevice : public nbd::Device {
 public:
  VolumeDevice(std::string name, Volume* volume) : name_(std::move(name)), volume_(volume) {}

  const std::string& name() const override { return name_; }
  std::string description() const override {
    return volume_->tee() ? "the primary VM's disk" : "takes the primary VM's writes only";
  }
  uint64_t size_bytes() const override { return volume_->options().size_bytes; }
  bool has_map() const override { return volume_->tee(); }
  bool has_short_writes() const override { return false; }  // the local disk's, and a frame to send

  absl::Status Read(uint64_t offset, std::span<char> out) override {
    return volume_->Read(offset, out);
  }
  size_t TryWrite(std::span<const nbd::Write> writes) override { return volume_->TryWrite(writes); }
  void WriteAll(std::span<const nbd::Write> writes, std::span<absl::Status> results) override {
    volume_->WriteAll(writes, results);
  }
  absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) override {
    return volume_->WriteZeroes(range.start, range.size(), space, fua);
  }
  absl::Status Trim(ByteRange range, bool fua) override {
    return volume_->Discard(range.start, range.size(), fua);
  }
  absl::Status Flush() override { return volume_->Flush(); }
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max) override {
    return volume_->Map(range, runs_max);
  }

 private:
  const std::string name_;
  Volume* const volume_;
};

}  // namespace

std::vector<std::string> Exports::Names() {
  std::vector<std::string> names;
  for (const auto& volume : primary_->volumes()) names.push_back(primary_->ExportName(*volume));
  return names;
}

absl::StatusOr<std::unique_ptr<nbd::Device>> Exports::Open(const std::string& name) {
  Volume* const volume = primary_->FindExport(name);
  if (volume != nullptr) {
    return std::make_unique<VolumeDevice>(primary_->ExportName(*volume), volume);
  }
  base::LogWarning("export_unknown")
      .With("name", name)
      .With("remedy", "exports are named GROUP/VOLUME");
  return absl::NotFoundError(
      absl::StrCat("no export \"", name, "\": exports are named GROUP/VOLUME"));
}

}  // namespace understudy::client
