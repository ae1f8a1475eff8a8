// The nbdkit plugin of understudy-agent: the primary VM's NBD server. nbdkit gives the protocol,
// this file maps its requests to Volume; the agent itself starts after nbdkit's fork. From then on
// nothing is said through nbdkit_error(), which waits for whoever reads standard error: there is
// the log.
#include <cerrno>
#include <cstring>
#include <memory>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "client/agent/agent.h"
#include "client/agent/agent_options.h"
#include "client/primary.h"
#include "storage/base/file_system.h"
#include "storage/base/log.h"
#include "storage/base/nbdkit.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint32_t kBlockMin = 512;
constexpr uint32_t kBlockPreferred = 4096;
constexpr uint32_t kBlockMax = 32 << 20;

AgentOptions& Options() {
  static auto* const options = new AgentOptions;
  return *options;
}

Agent* running = nullptr;  // set in after_fork, before the first connection; never deleted

int Errno(const absl::Status& status) {
  if (absl::IsOutOfRange(status) || absl::IsInvalidArgument(status)) return EINVAL;
  if (absl::IsResourceExhausted(status)) return ENOSPC;
  return EIO;
}

// What nbdkit wants: 0, or -1 with errno set. Why is in the log and GetError, once, not with every
// request.
int Result(const absl::Status& status) {
  if (status.ok()) return 0;
  if (absl::IsCancelled(status)) base::HoldUntilExit();  // the I/O gate is closed
  nbdkit_set_error(Errno(status));
  return -1;
}

Volume& Of(void* handle) { return *static_cast<Volume*>(handle); }

int Config(const char* key, const char* value) {
  const absl::Status status = Options().Set(key, value);
  if (!status.ok()) nbdkit_error("%s", std::string(status.message()).c_str());
  return status.ok() ? 0 : -1;
}

int ConfigComplete() {
  const absl::Status status = Options().Validate();
  if (!status.ok()) nbdkit_error("%s", std::string(status.message()).c_str());
  return status.ok() ? 0 : -1;
}

void Shutdown() {
  if (running != nullptr) running->Shutdown();
  unlink(Options().nbd_socket.c_str());
}

absl::StatusOr<std::unique_ptr<Agent>> StartAgent() {
  RETURN_IF_ERROR(base::SetSocketAccess(Options().nbd_socket, Options().nbd_access));
  return Agent::Start(Options());
}

int AfterFork() {
  base::HandleShutdownSignals(Shutdown);
  absl::StatusOr<std::unique_ptr<Agent>> agent = StartAgent();
  if (!agent.ok()) {
    unlink(Options().nbd_socket.c_str());
    base::ExitWith(1, absl::StrCat("understudy-agent: ", agent.status().message()));
  }
  running = agent->release();
  return 0;
}

int ListExports(int, int, nbdkit_exports* exports) {
  for (const auto& volume : running->primary().volumes()) {
    if (nbdkit_add_export(exports, running->primary().ExportName(*volume).c_str(), nullptr) != 0) {
      return -1;
    }
  }
  return 0;
}

const char* DefaultExport(int, int) {
  const Primary& primary = running->primary();
  if (primary.volumes().size() != 1) return nullptr;
  return nbdkit_strdup_intern(primary.ExportName(*primary.volumes()[0]).c_str());
}

void* Open(int) {
  const char* const name = nbdkit_export_name();
  Volume* const volume = running->primary().FindExport(name == nullptr ? "" : name);
  if (volume == nullptr) {
    base::LogWarning("export_unknown")
        .With("name", name == nullptr ? "" : name)
        .With("remedy", "exports are named GROUP/VOLUME");
    nbdkit_set_error(ENOENT);
  }
  return volume;
}

int64_t GetSize(void* handle) { return static_cast<int64_t>(Of(handle).options().size_bytes); }
int Yes(void*) { return 1; }
int CanFua(void*) { return NBDKIT_FUA_NATIVE; }
int CanExtents(void* handle) { return Of(handle).tee() ? 1 : 0; }

int BlockSize(void*, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
  *minimum = kBlockMin;
  *preferred = kBlockPreferred;
  *maximum = kBlockMax;
  return 0;
}

bool Fua(uint32_t flags) { return (flags & NBDKIT_FLAG_FUA) != 0; }

int Read(void* handle, void* buffer, uint32_t count, uint64_t offset, uint32_t) {
  return Result(Of(handle).Read(offset, {static_cast<char*>(buffer), count}));
}

int Write(void* handle, const void* buffer, uint32_t count, uint64_t offset, uint32_t flags) {
  return Result(Of(handle).Write(offset, {static_cast<const char*>(buffer), count}, Fua(flags)));
}

int Flush(void* handle, uint32_t) { return Result(Of(handle).Flush()); }

int Trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  return Result(Of(handle).Discard(offset, count, Fua(flags)));
}

int Zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  // Without MAY_TRIM the client has said NO_HOLE.
  const bool may_trim = (flags & NBDKIT_FLAG_MAY_TRIM) != 0;
  return Result(Of(handle).WriteZeroes(
      offset, count, may_trim ? ZeroedSpace::kGivenBack : ZeroedSpace::kKept, Fua(flags)));
}

int Extents(void* handle, uint32_t count, uint64_t offset, uint32_t, nbdkit_extents* extents) {
  const auto runs = Of(handle).Map(ByteRange::OfLength(offset, count));
  if (!runs.ok()) return Result(runs.status());
  for (const DiskRun& run : *runs) {
    const uint32_t type = run.hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
    if (nbdkit_add_extent(extents, run.range.start, run.range.size(), type) != 0) return -1;
  }
  return 0;
}

nbdkit_plugin MakePlugin() {
  nbdkit_plugin plugin = {};
  plugin.name = "understudyagent";
  plugin.longname = "Understudy host agent";
  plugin.version = UNDERSTUDY_VERSION;
  plugin.description = "Serves a primary VM's disks and forwards its writes to the standby";
  plugin.config = Config;
  plugin.config_complete = ConfigComplete;
  plugin.after_fork = AfterFork;
  plugin.list_exports = ListExports;
  plugin.default_export = DefaultExport;
  plugin.open = Open;
  plugin.get_size = GetSize;
  plugin.block_size = BlockSize;
  plugin.can_write = Yes;
  plugin.can_flush = Yes;
  plugin.can_trim = Yes;
  plugin.can_zero = Yes;
  plugin.can_fua = CanFua;
  // A flush covers what every connection has had answered: one disk handle, one stream.
  plugin.can_multi_conn = Yes;
  plugin.can_extents = CanExtents;
  plugin.pread = Read;
  plugin.pwrite = Write;
  plugin.flush = Flush;
  plugin.trim = Trim;
  plugin.zero = Zero;
  plugin.extents = Extents;
  plugin.errno_is_preserved = 0;
  return plugin;
}

nbdkit_plugin plugin = MakePlugin();

}  // namespace
}  // namespace understudy::client

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
using understudy::client::plugin;
NBDKIT_REGISTER_PLUGIN(plugin)
