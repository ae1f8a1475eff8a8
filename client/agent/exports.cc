#include "client/agent/exports.h"

#include <algorithm>
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
  bool has_fast_zero() const override { return false; }

  absl::Status Read(uint64_t offset, std::span<char> out) override {
    return volume_->Read(offset, out);
  }
  void WriteAll(std::span<const nbd::Write> writes, std::span<absl::Status> results) override {
    for (size_t i = 0; i < writes.size(); ++i) {
      results[i] = volume_->Write(writes[i].offset, writes[i].data, writes[i].fua);
    }
  }
  absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) override {
    return volume_->WriteZeroes(range.start, range.size(), space, fua);
  }
  absl::Status Trim(ByteRange range, bool fua) override {
    return volume_->Discard(range.start, range.size(), fua);
  }
  absl::Status Flush() override { return volume_->Flush(); }
  absl::StatusOr<std::vector<nbd::Run>> Map(ByteRange range, size_t runs_max) override;

 private:
  const std::string name_;
  Volume* const volume_;
};

absl::StatusOr<std::vector<nbd::Run>> VolumeDevice::Map(ByteRange range, size_t runs_max) {
  const absl::StatusOr<std::vector<DiskRun>> mapped = volume_->Map(range);
  if (!mapped.ok()) return mapped.status();
  std::vector<nbd::Run> runs;
  for (size_t i = 0; i < std::min(mapped->size(), runs_max); ++i) {
    const DiskRun& run = (*mapped)[i];
    runs.push_back({.length = run.range.size(), .hole = run.hole, .zero = run.hole});
  }
  return runs;
}

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
