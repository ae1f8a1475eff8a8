#include "server/nbd/exports.h"

#include <utility>

#include "server/export.h"
#include "storage/base/log.h"

namespace understudy::server {
namespace {

class ExportDevice : public nbd::Device {
 public:
  explicit ExportDevice(std::shared_ptr<Export> volume) : volume_(std::move(volume)) {}
  ~ExportDevice() override {
    if (connected_) volume_->Disconnect();
  }

  const std::string& name() const override { return volume_->name(); }
  std::string description() const override {
    const bool clone = name().find('@') != std::string::npos;
    return clone ? "a clone of the standby's disk" : "the standby's disk, as its VM sees it";
  }
  uint64_t size_bytes() const override { return volume_->size_bytes(); }
  bool has_map() const override { return true; }

  void Connect() override {
    volume_->Connect();
    connected_ = true;
  }
  absl::Status Read(uint64_t offset, std::span<char> out) override {
    return volume_->Read(offset, out);
  }
  void WriteAll(std::span<const nbd::Write> writes, std::span<absl::Status> results) override {
    volume_->WriteAll(writes, results);
  }
  absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) override {
    return volume_->WriteZeroes(range, space, fua);
  }
  absl::Status Trim(ByteRange range, bool fua) override { return volume_->Discard(range, fua); }
  absl::Status Flush() override { return volume_->Flush(); }
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max) override {
    return volume_->Map(range, runs_max);
  }

 private:
  const std::shared_ptr<Export> volume_;
  bool connected_ = false;
};

absl::StatusOr<std::shared_ptr<Export>> Find(Service& service, const std::string& name) {
  const std::string found = name.empty() ? service.DefaultExportName() : name;
  if (!found.empty()) return service.FindExport(found);
  return absl::NotFoundError(
      "no export is the default one: name one of the volumes, GROUP/VOLUME (qemu-nbd --list shows "
      "them)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<nbd::Device>> Exports::Open(const std::string& name) {
  absl::StatusOr<std::shared_ptr<Export>> found = Find(*service_, name);
  if (found.ok()) return std::make_unique<ExportDevice>(*std::move(found));
  base::LogWarning("export_unknown").With("status", found.status());
  return found.status();
}

}  // namespace understudy::server
