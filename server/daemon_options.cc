#include "server/daemon_options.h"

#include <filesystem>
#include <limits>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "storage/base/address.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::server {
namespace {

constexpr uint64_t kIndexMemoryMin = 16 << 20;

std::string Absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

// "host:port" with a port from 0 to 65535, or, when allowed, "unix:/path".
bool WellFormedAddress(const std::string& address, bool unix_allowed) {
  return base::IsHostAndPortToListen(address) || (unix_allowed && base::IsUnixAddress(address));
}

absl::Status Set(uint64_t& to, const std::string& value) {
  ASSIGN_OR_RETURN(to, ParseBytes(value));
  return absl::OkStatus();
}

absl::Status SetCount(uint64_t& to, const std::string& value) {
  if (!value.empty() && value[0] != '+' && absl::SimpleAtoi(value, &to)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", value, "\" is not a whole number"));
}

absl::Status SetBool(bool& to, const std::string& value) {
  if (value != "true" && value != "false") {
    return absl::InvalidArgumentError(absl::StrCat("\"", value, "\" is neither true nor false"));
  }
  to = value == "true";
  return absl::OkStatus();
}

absl::Status SetDurability(bool& durable, const std::string& value) {
  if (value != "checkpoint" && value != "none") {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", value, "\" is neither checkpoint nor none"));
  }
  durable = value == "checkpoint";
  return absl::OkStatus();
}

// Of one group; 0: none.
uint64_t OverlayLimit(const storage::StoreOptions& store) {
  if (store.overlay_bytes_max == 0) return store.overlay_bytes_total;
  return store.overlay_bytes_max;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  const absl::Status bad = absl::InvalidArgumentError(absl::StrCat(
      "\"", text, "\" is not a number of bytes (digits, then K, M, G or T if you like)"));
  if (text.empty()) return bad;
  const size_t unit = std::string("KMGT").find(text.back());
  const bool scaled = unit != std::string::npos;
  const int shift = scaled ? 10 * (static_cast<int>(unit) + 1) : 0;
  uint64_t number;
  if (!absl::SimpleAtoi(text.substr(0, text.size() - (scaled ? 1 : 0)), &number)) return bad;
  if (number > (std::numeric_limits<uint64_t>::max() >> shift)) return bad;
  return number << shift;
}

absl::Status DaemonOptions::Set(const std::string& key, const std::string& value) {
  absl::Status status = base::CheckUtf8(absl::StrCat("--", key), value);
  if (!status.ok()) return status;
  if (key == "listen") {
    listen = value;
  } else if (key == "metrics-listen") {
    metrics_listen = value;
  } else if (key == "nbd-socket") {
    nbd_socket = Absolute(value);
  } else if (key == "nbd-socket-mode") {
    nbd_access.mode = value;
    status = base::CheckSocketAccess({.mode = value});
  } else if (key == "nbd-socket-group") {
    nbd_access.group = value;
    status = base::CheckSocketAccess({.group = value});
  } else if (key == "data-dir") {
    store.data_dir = Absolute(value);
  } else if (key == "disk-dir") {
    store.disk_dirs.push_back(Absolute(value));
  } else if (key == "durability") {
    status = SetDurability(store.checkpoint_durable, value);
  } else if (key == "apply-bytes-per-second") {
    status = server::Set(store.apply_bytes_per_second, value);
  } else if (key == "segment-bytes") {
    status = server::Set(store.segment_bytes, value);
  } else if (key == "history-epochs") {
    status = SetCount(store.history_epochs, value);
  } else if (key == "history-bytes") {
    status = server::Set(store.history_bytes, value);
  } else if (key == "overlay-bytes-max") {
    status = server::Set(store.overlay_bytes_max, value);
  } else if (key == "overlay-bytes-total") {
    status = server::Set(store.overlay_bytes_total, value);
  } else if (key == "reserve-disk-space") {
    status = SetBool(store.reserve_disk_space, value);
  } else if (key == "index-memory-max") {
    status = server::Set(store.index_memory_max, value);
  } else {
    return absl::NotFoundError(absl::StrCat("unknown option ", key));
  }
  return Annotate(status, absl::StrCat("--", key));
}

absl::Status DaemonOptions::Validate() const {
  std::vector<std::string> problems;
  if (store.data_dir.empty())
    problems.push_back("--data-dir is missing: name a directory, it is made when missing");
  if (!WellFormedAddress(listen, true)) {
    problems.push_back(
        absl::StrCat("--listen: \"", listen, "\" is neither host:port nor unix:/path"));
  }
  if (!WellFormedAddress(metrics_listen, false)) {
    problems.push_back(absl::StrCat("--metrics-listen: \"", metrics_listen, "\" is not host:port"));
  }
  if (nbd_socket.size() > 107) {
    problems.push_back(absl::StrCat("--nbd-socket: \"", nbd_socket,
                                    "\" is longer than the 107 bytes of a socket's path"));
  }
  if (store.overlay_bytes_total != 0 && store.overlay_bytes_max > store.overlay_bytes_total) {
    problems.push_back(absl::StrCat("--overlay-bytes-max ", store.overlay_bytes_max,
                                    " of one group is more than --overlay-bytes-total ",
                                    store.overlay_bytes_total, " of all"));
  }
  if (const uint64_t limit = OverlayLimit(store); limit != 0 && store.history_bytes >= limit) {
    problems.push_back(absl::StrCat("--history-bytes ", store.history_bytes,
                                    " leaves nothing for new writes: history is part of the ",
                                    limit, " that the overlays may take"));
  }
  if (store.index_memory_max < kIndexMemoryMin) {
    problems.push_back(absl::StrCat("--index-memory-max: ", store.index_memory_max,
                                    " is less than 16 MiB (", kIndexMemoryMin, ")"));
  }
  storage::StoreOptions rest = store;
  if (rest.data_dir.empty()) rest.data_dir.push_back('/');  // said above, in terms of the flag
  if (const absl::Status status = rest.Validate(); !status.ok()) {
    problems.emplace_back(status.message());
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
}

}  // namespace understudy::server
