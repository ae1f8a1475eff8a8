#include "client/agent/agent_options.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "storage/base/address.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::client {
namespace {

absl::Status Wrong(const std::string& key, const std::string& value, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("--", key, ": \"", value, "\" is not ", expected));
}

absl::Status SetDuration(const std::string& key, const std::string& value, absl::Duration& out) {
  absl::Duration parsed;
  if (!absl::ParseDuration(value, &parsed) || parsed <= absl::ZeroDuration() ||
      parsed == absl::InfiniteDuration()) {
    return Wrong(key, value, "a positive duration such as 500ms or 2s");
  }
  out = parsed;
  return absl::OkStatus();
}

constexpr uint64_t kIntentRegionsMin = 16;
constexpr uint64_t kDirtyMapBytesMin = 1 << 20;

absl::Status SetBytes(const std::string& key, const std::string& value, uint64_t& bytes,
                      uint64_t least = 0) {
  const auto parsed = ParseBytes(value);
  if (!parsed.ok()) return Annotate(parsed.status(), "--" + key);
  if (*parsed < least) return Wrong(key, value, absl::StrCat("at least ", least));
  bytes = *parsed;
  return absl::OkStatus();
}

absl::Status SetBool(const std::string& key, const std::string& value, bool& out) {
  if (value != "true" && value != "false" && value != "1" && value != "0") {
    return Wrong(key, value, "true or false");
  }
  out = value == "true" || value == "1";
  return absl::OkStatus();
}

template <typename Enum>
absl::Status SetEnum(const std::string& key, const std::string& value,
                     const std::map<std::string, Enum>& names, Enum& out) {
  const auto found = names.find(value);
  if (found == names.end()) {
    std::vector<std::string> known;
    for (const auto& [name, unused] : names) known.push_back(name);
    return Wrong(key, value, absl::StrCat("one of ", absl::StrJoin(known, ", ")));
  }
  out = found->second;
  return absl::OkStatus();
}

const std::map<std::string, AckMode>& AckNames() {
  static const auto* const names =
      new std::map<std::string, AckMode>{{"forwarded", AckMode::kForwarded},
                                         {"received", AckMode::kReceived},
                                         {"durable", AckMode::kDurable}};
  return *names;
}

const std::map<std::string, OnFull>& OnFullNames() {
  static const auto* const names =
      new std::map<std::string, OnFull>{{"degrade", OnFull::kDegrade}, {"block", OnFull::kBlock}};
  return *names;
}

std::string Absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  static constexpr absl::string_view kUnits = "KMGT";
  absl::string_view digits = text;
  int shift = 0;
  if (!digits.empty()) {
    const size_t unit = kUnits.find(absl::ascii_toupper(static_cast<unsigned char>(digits.back())));
    if (unit != absl::string_view::npos) {
      shift = 10 * (static_cast<int>(unit) + 1);
      digits.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  const bool plain =
      !digits.empty() && std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit);
  if (!plain || !absl::SimpleAtoi(digits, &number) ||
      number > (std::numeric_limits<uint64_t>::max() >> shift)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a number of bytes such as 1048576, 64M or 10G"));
  }
  return number << shift;
}

absl::StatusOr<PrimaryVolumeOptions> ParseVolume(const std::string& text) {
  const std::vector<std::string> fields = base::SplitFields(text);
  PrimaryVolumeOptions volume{.name = fields[0]};
  RETURN_IF_ERROR(CheckName("volume", volume.name));
  for (size_t i = 1; i < fields.size(); ++i) {
    const std::pair<std::string, std::string> field =
        absl::StrSplit(fields[i], absl::MaxSplits('=', 1));
    if (field.first == "disk" && !field.second.empty()) {
      volume.disk_path = Absolute(field.second);
    } else if (field.first == "size") {
      ASSIGN_OR_RETURN(volume.size_bytes, ParseBytes(field.second));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", fields[i],
                       "\" is not disk=PATH or size=BYTES, as in NAME[,disk=PATH][,size=BYTES]"));
    }
  }
  if (volume.disk_path.empty() && volume.size_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("volume ", volume.name, " has no disk, so it needs size=BYTES"));
  }
  if (volume.size_bytes % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("volume ", volume.name, ": size ",
                                                   volume.size_bytes, " is not a multiple of 512"));
  }
  return volume;
}

namespace {
absl::Status AddFailbackMap(AgentOptions& options, const std::string&, const std::string& value) {
  options.failback_maps.push_back(Absolute(value));
  return absl::OkStatus();
}

absl::Status SetGroup(AgentOptions& options, const std::string& key, const std::string& value) {
  options.primary.forwarder.group = value;
  return Annotate(CheckName("group", value), "--" + key);
}

absl::Status SetSocketMode(AgentOptions& options, const std::string& key,
                           const std::string& value) {
  options.nbd_access.mode = value;
  return Annotate(base::CheckSocketAccess({.mode = value}), "--" + key);
}

absl::Status SetSocketGroup(AgentOptions& options, const std::string& key,
                            const std::string& value) {
  options.nbd_access.group = value;
  return Annotate(base::CheckSocketAccess({.group = value}), "--" + key);
}

using Setter = std::function<absl::Status(AgentOptions&, const std::string&, const std::string&)>;

Setter Text(std::string AgentOptions::*field) {
  return [field](AgentOptions& options, const std::string& key, const std::string& value) {
    if (value.empty()) return Wrong(key, value, "given");
    options.*field = value;
    return absl::OkStatus();
  };
}

Setter Path(std::string AgentOptions::*field) {
  return [field](AgentOptions& options, const std::string& key, const std::string& value) {
    return Text(field)(options, key, Absolute(value));
  };
}

absl::Status AddVolume(AgentOptions& options, const std::string& key, const std::string& value) {
  const auto volume = ParseVolume(value);
  if (volume.ok()) options.primary.volumes.push_back(*volume);
  return Annotate(volume.status(), "--" + key);
}
}  // namespace

absl::Status AgentOptions::Set(const std::string& key, const std::string& value) {
  static const auto* const setters = new std::map<std::string, Setter>{
      {"server", Text(&AgentOptions::server)},
      {"nbd-socket", Path(&AgentOptions::nbd_socket)},
      {"nbd-socket-mode", SetSocketMode},
      {"nbd-socket-group", SetSocketGroup},
      {"listen", Text(&AgentOptions::listen)},
      {"metrics-listen", Text(&AgentOptions::metrics_listen)},
      {"state-dir", Path(&AgentOptions::state_dir)},
      {"write-failback-map", Path(&AgentOptions::write_failback_map)},
      {"failback-map", AddFailbackMap},
      {"group", SetGroup},
      {"volume", AddVolume},
      {"ack", [](auto& o, const auto& k,
                 const auto& v) { return SetEnum(k, v, AckNames(), o.primary.forwarder.ack); }},
      {"on-full",
       [](auto& o, const auto& k, const auto& v) {
         return SetEnum(k, v, OnFullNames(), o.primary.forwarder.on_full);
       }},
      {"on-fenced",
       [](auto& o, const auto& k, const auto& v) {
         return SetEnum<bool>(k, v, {{"stop", true}, {"continue", false}},
                              o.primary.stop_when_fenced);
       }},
      {"window-bytes",
       [](auto& o, const auto& k, const auto& v) {
         return SetBytes(k, v, o.primary.forwarder.window_bytes, kWindowBytesMin);
       }},
      {"dirty-map-bytes",
       [](auto& o, const auto& k, const auto& v) {
         return SetBytes(k, v, o.primary.dirty_map_bytes, kDirtyMapBytesMin);
       }},
      {"intent-regions",
       [](auto& o, const auto& k, const auto& v) {
         return SetBytes(k, v, o.primary.intent_regions, kIntentRegionsMin);
       }},
      {"resync-bytes-per-second",
       [](auto& o, const auto& k, const auto& v) {
         return SetBytes(k, v, o.primary.resync_bytes_per_second);
       }},
      {"stall-timeout",
       [](auto& o, const auto& k, const auto& v) {
         return SetDuration(k, v, o.primary.forwarder.stall_timeout);
       }},
      {"checkpoint-interval",
       [](auto& o, const auto& k, const auto& v) {
         o.primary.forwarder.may_checkpoint = true;
         return SetDuration(k, v, o.checkpoint_interval);
       }},
      {"start", [](auto& o, const auto& k, const auto& v) { return SetBool(k, v, o.start); }},
      {"report-forward-errors",
       [](auto& o, const auto& k, const auto& v) {
         return SetBool(k, v, o.primary.report_forward_errors);
       }},
  };
  const auto found = setters->find(key);
  if (found == setters->end()) return absl::NotFoundError(absl::StrCat("unknown: ", key));
  RETURN_IF_ERROR(base::CheckUtf8("--" + key, value));
  return found->second(*this, key, value);
}

std::string AgentOptions::DefaultStateDirectory() const {
  for (const PrimaryVolumeOptions& volume : primary.volumes) {
    if (volume.disk_path.empty()) continue;
    std::error_code ignored;
    return std::filesystem::is_regular_file(volume.disk_path, ignored) ? volume.disk_path + ".state"
                                                                       : "";
  }
  return "";
}

absl::Status AgentOptions::Validate() {
  std::vector<std::string> problems;
  if (server.empty()) {
    problems.emplace_back("--server is required: the address of understudyd");
  } else if (!base::IsHostAndPort(server) && !base::IsUnixAddress(server)) {
    problems.push_back(absl::StrCat("--server: \"", server, "\" is not host:port or unix:/path"));
  }
  if (nbd_socket.empty()) problems.emplace_back("--nbd-socket is required");
  if (primary.forwarder.group.empty()) problems.emplace_back("--group is required");
  if (primary.volumes.empty()) problems.emplace_back("--volume is required, once per volume");
  std::set<std::string> names;
  bool tee = false;
  for (const PrimaryVolumeOptions& volume : primary.volumes) {
    tee = tee || !volume.disk_path.empty();
    if (!names.insert(volume.name).second) {
      problems.push_back(absl::StrCat("--volume: ", volume.name, " is given twice"));
    }
  }
  if (state_dir.empty()) state_dir = DefaultStateDirectory();
  if (tee && state_dir.empty()) {
    problems.emplace_back(
        "--state-dir is required with a volume whose disk is a device or does not exist");
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
}

}  // namespace understudy::client
