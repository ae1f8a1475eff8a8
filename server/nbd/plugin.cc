// understudyd-plugin.so: the whole of understudyd inside nbdkit, which serves each volume over NBD as GROUP/VOLUME and by its
// top-id, and those of clones as GROUP@CLONE/VOLUME. The launcher (server/main.cc) passes its options as key=value.
//
// Start    in after_fork: threads, gRPC's above all, do not survive nbdkit's fork.
// Threads  nbdkit calls the data functions from as many threads as it has; Export allows it.
// Errors   nbdkit_set_error() for the client; I/O errors are latched, not printed. nbdkit_error()
//          writes to standard error and waits for its reader, so it is for the time before the fork
//          only; later there is the log.
#define NBDKIT_API_VERSION 2
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

#include "absl/strings/str_cat.h"
#include <nbdkit-plugin.h>

#include "server/daemon.h"
#include "server/daemon_options.h"
#include "server/export.h"
#include "server/service.h"
#include "storage/base/log.h"
#include "storage/base/nbdkit.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

constexpr uint32_t kRequestBytesMax = 32 << 20;

// Made before the fork, started after it, never destroyed: the signal thread ends the process.
DaemonOptions& Options() {
  static DaemonOptions* const options = new DaemonOptions;
  return *options;
}
std::atomic<Daemon*> running{nullptr};

Service& TheService() { return running.load()->service(); }

// One client's connection to one export.
class Connection {
 public:
  explicit Connection(std::shared_ptr<Export> volume) : volume_(std::move(volume)) {
    volume_->Connect();
  }
  ~Connection() { volume_->Disconnect(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Export& volume() const { return *volume_; }

 private:
  const std::shared_ptr<Export> volume_;
};

Export& ExportOf(void* handle) { return static_cast<Connection*>(handle)->volume(); }

int Answer(const absl::Status& status) {
  if (status.ok()) return 0;
  if (absl::IsUnavailable(status)) base::HoldUntilExit();  // the I/O gate is closed
  nbdkit_set_error(IoErrno(status));
  return -1;
}

int Config(const char* key, const char* value) {
  const absl::Status status = Options().Set(key, value);
  if (status.ok()) return 0;
  nbdkit_error("%s", std::string(status.message()).c_str());
  return -1;
}

int ConfigComplete() {
  const absl::Status status = Options().Validate();
  if (status.ok()) return 0;
  nbdkit_error("%s", std::string(status.message()).c_str());
  return -1;
}

void Shutdown() {
  if (Daemon* const daemon = running.load(); daemon != nullptr) daemon->Shutdown();
  if (!Options().nbd_socket.empty()) unlink(Options().nbd_socket.c_str());
}

absl::StatusOr<std::unique_ptr<Daemon>> StartDaemon() {
  const DaemonOptions& options = Options();
  if (!options.nbd_socket.empty()) {
    RETURN_IF_ERROR(base::SetSocketAccess(options.nbd_socket, options.nbd_access));
  }
  return Daemon::Start(options);
}

int AfterFork() {
  base::HandleShutdownSignals(Shutdown);
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = StartDaemon();
  if (daemon.ok()) {
    running.store(daemon->release());
    return 0;
  }
  if (!Options().nbd_socket.empty()) {
    unlink(Options().nbd_socket.c_str());  // nbdkit has bound it already
  }
  base::ExitWith(1, absl::StrCat("understudyd: ", daemon.status().message()));
}

int ListExports(int /*readonly*/, int /*is_tls*/, nbdkit_exports* exports) {
  for (const std::string& name : TheService().ExportNames()) {
    if (nbdkit_add_export(exports, name.c_str(), nullptr) == -1) return -1;
  }
  return 0;
}

const char* DefaultExport(int /*readonly*/, int /*is_tls*/) {
  return nbdkit_strdup_intern(TheService().DefaultExportName().c_str());
}

void* Open(int /*readonly*/) {
  std::string name = nbdkit_export_name();
  if (name.empty()) name = TheService().DefaultExportName();
  if (name.empty()) {
    base::LogWarning("export_unknown")
        .With("remedy", "name one of the volumes, GROUP/VOLUME: qemu-nbd --list shows them");
    nbdkit_set_error(ENOENT);
    return nullptr;
  }
  absl::StatusOr<std::shared_ptr<Export>> found = TheService().FindExport(name);
  if (found.ok()) return new Connection(*std::move(found));
  base::LogWarning("export_unknown").With("status", found.status());
  nbdkit_set_error(ENOENT);
  return nullptr;
}

void Close(void* handle) { delete static_cast<Connection*>(handle); }

int64_t GetSize(void* handle) { return static_cast<int64_t>(ExportOf(handle).size_bytes()); }

int Always(void* /*handle*/) { return 1; }
int CanFua(void* /*handle*/) { return NBDKIT_FUA_NATIVE; }
int Never(void* /*handle*/) { return 0; }

int BlockSize(void* /*handle*/, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
  *minimum = kSectorBytes;
  *preferred = kBlockBytes;
  *maximum = kRequestBytesMax;
  return 0;
}

int Read(void* handle, void* buffer, uint32_t count, uint64_t offset, uint32_t /*flags*/) {
  return Answer(ExportOf(handle).Read(offset, {static_cast<char*>(buffer), count}));
}

int Write(void* handle, const void* buffer, uint32_t count, uint64_t offset, uint32_t flags) {
  return Answer(ExportOf(handle).Write(offset, {static_cast<const char*>(buffer), count},
                                       (flags & NBDKIT_FLAG_FUA) != 0));
}

int Flush(void* handle, uint32_t /*flags*/) { return Answer(ExportOf(handle).Flush()); }

int Trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  return Answer(
      ExportOf(handle).Discard(ByteRange::OfLength(offset, count), (flags & NBDKIT_FLAG_FUA) != 0));
}

int Zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  // Without MAY_TRIM the client has said NO_HOLE.
  const bool may_trim = (flags & NBDKIT_FLAG_MAY_TRIM) != 0;
  return Answer(ExportOf(handle).WriteZeroes(
      ByteRange::OfLength(offset, count), may_trim ? ZeroedSpace::kGivenBack : ZeroedSpace::kKept,
      (flags & NBDKIT_FLAG_FUA) != 0));
}

int Extents(void* handle, uint32_t count, uint64_t offset, uint32_t /*flags*/,
            nbdkit_extents* extents) {
  const ByteRange asked = ByteRange::OfLength(offset, count);
  const absl::StatusOr<std::vector<storage::MapRun>> runs = ExportOf(handle).Map(asked);
  if (!runs.ok()) return Answer(runs.status());
  for (const storage::MapRun& run : *runs) {
    const uint32_t type = (run.zero ? NBDKIT_EXTENT_ZERO : 0) | (run.hole ? NBDKIT_EXTENT_HOLE : 0);
    if (nbdkit_add_extent(extents, run.range.start, run.range.size(), type) == -1) return -1;
  }
  return 0;
}

nbdkit_plugin MakePlugin() {
  nbdkit_plugin plugin = {};
  plugin.name = "understudyd";
  plugin.longname = "understudyd, the replication service of the standby";
  plugin.config = Config;
  plugin.config_complete = ConfigComplete;
  plugin.config_help = "The options of understudyd as key=value: see understudyd --help.";
  plugin.after_fork = AfterFork;
  plugin.list_exports = ListExports;
  plugin.default_export = DefaultExport;
  plugin.open = Open;
  plugin.close = Close;
  plugin.get_size = GetSize;
  plugin.block_size = BlockSize;
  plugin.can_write = Always;
  plugin.can_flush = Always;
  plugin.can_trim = Always;
  plugin.can_zero = Always;
  plugin.can_fast_zero = Always;
  plugin.can_fua = CanFua;
  plugin.can_multi_conn = Always;
  plugin.can_extents = Always;
  plugin.is_rotational = Never;
  plugin.pread = Read;
  plugin.pwrite = Write;
  plugin.flush = Flush;
  plugin.trim = Trim;
  plugin.zero = Zero;
  plugin.extents = Extents;
  return plugin;
}

nbdkit_plugin plugin = MakePlugin();

}  // namespace
}  // namespace understudy::server

using understudy::server::plugin;

NBDKIT_REGISTER_PLUGIN(plugin)
