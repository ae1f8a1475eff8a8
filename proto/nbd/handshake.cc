#include "proto/nbd/handshake.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "proto/nbd/figures.h"
#include "storage/base/status_macros.h"

namespace understudy::nbd {
namespace {

// Of one option: a name, and some queries or kinds of information.
constexpr uint32_t kOptionBytesMax = 64 << 10;

// Takes what an option's data is made of from its front.
class Fields {
 public:
  explicit Fields(absl::string_view data) : data_(data) {}

  template <typename Number>
  bool Take(Number& out) {
    if (data_.size() < sizeof(Number)) return false;
    out = Load<Number>(data_.data());
    data_.remove_prefix(sizeof(Number));
    return true;
  }
  // A string behind its length.
  bool TakeString(absl::string_view& out) {
    uint32_t bytes = 0;
    if (!Take(bytes) || bytes > data_.size()) return false;
    out = data_.substr(0, bytes);
    data_.remove_prefix(bytes);
    return true;
  }
  bool empty() const { return data_.empty(); }

 private:
  absl::string_view data_;
};

struct ContextQuery {
  absl::string_view export_name;
  std::vector<absl::string_view> queries;
};

std::optional<ContextQuery> ParseContextQuery(absl::string_view data) {
  Fields fields(data);
  ContextQuery query;
  uint32_t count = 0;
  if (!fields.TakeString(query.export_name) || !fields.Take(count)) return std::nullopt;
  for (uint32_t i = 0; i < count; ++i) {
    if (!fields.TakeString(query.queries.emplace_back())) return std::nullopt;
  }
  return fields.empty() ? std::optional(std::move(query)) : std::nullopt;
}

// Whether base:allocation is among what is asked for. A list may say "base:", or nothing, for all.
bool AsksForAllocation(const ContextQuery& query, bool list) {
  if (list && query.queries.empty()) return true;
  return std::any_of(query.queries.begin(), query.queries.end(), [list](absl::string_view text) {
    return text == kAllocationContext || (list && text == "base:");
  });
}

}  // namespace

absl::StatusOr<Handshake::Outcome> Handshake::Run() {
  deadline_ = SteadyNow() + kTimeout;
  RETURN_IF_ERROR(Greet());
  while (outcome_.device == nullptr) RETURN_IF_ERROR(RunOption());
  return std::move(outcome_);
}

absl::Status Handshake::Greet() {
  std::string greeting;
  Append(greeting, kMagic);
  Append(greeting, kOptionMagic);
  Append<uint16_t>(greeting, kFixedNewstyle | kNoZeroes);
  RETURN_IF_ERROR(Send(greeting));
  char data[4];
  RETURN_IF_ERROR(Receive(data, sizeof(data)));
  const auto flags = Load<uint32_t>(data);
  if ((flags & ~uint32_t{kFixedNewstyle | kNoZeroes}) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("unknown client flags ", flags));
  }
  fixed_ = (flags & kFixedNewstyle) != 0;
  no_zeroes_ = (flags & kNoZeroes) != 0;
  return absl::OkStatus();
}

absl::Status Handshake::RunOption() {
  char header[kOptionHeaderBytes];
  RETURN_IF_ERROR(Receive(header, sizeof(header)));
  if (Load<uint64_t>(header) != kOptionMagic) {
    return absl::InvalidArgumentError("an option without its magic number");
  }
  const auto option = static_cast<Option>(Load<uint32_t>(header + 8));
  const auto bytes = Load<uint32_t>(header + 12);
  if (bytes > kOptionBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("option ", static_cast<uint32_t>(option), " with ", bytes, " bytes of data"));
  }
  std::string data(bytes, '\0');
  RETURN_IF_ERROR(Receive(data.data(), bytes));
  return Answer(option, data);
}

absl::Status Handshake::Answer(Option option, absl::string_view data) {
  if (!fixed_ && option != Option::kExportName) {
    return absl::InvalidArgumentError("an option of fixed newstyle from a client that is not");
  }
  switch (option) {
    case Option::kExportName:
      return ExportName(data);
    case Option::kAbort:
      Reply(option, OptionReply::kAck).IgnoreError();  // it need not wait for it
      return absl::CancelledError("the client wanted no export");
    case Option::kList:
      return List(data);
    case Option::kInfo:
    case Option::kGo:
      return InfoOrGo(option, data);
    case Option::kStructuredReply:
    case Option::kExtendedHeaders:
      return SelectStyle(option, data);
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      return MetaContext(option, data);
    default:
      return Reply(option, OptionReply::kUnsupported, "this server does not know the option");
  }
}

uint16_t Handshake::TransmissionFlags() const {
  uint16_t flags =
      kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kCanMultiConn | kSendCache;
  if (outcome_.style != ReplyStyle::kSimple) flags |= kSendDf;
  return flags;
}

void Handshake::Take(std::unique_ptr<Device> device, absl::string_view asked_name) {
  outcome_.block_status = context_of_.has_value() && *context_of_ == asked_name;
  outcome_.device = std::move(device);
}

// The one option that has no way to say no but to end.
absl::Status Handshake::ExportName(absl::string_view name) {
  if (outcome_.style == ReplyStyle::kExtended) {
    return absl::InvalidArgumentError("EXPORT_NAME after EXTENDED_HEADERS");
  }
  if (name.size() > kNameBytesMax) {
    return absl::InvalidArgumentError("an export name of more than 4096 bytes");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Device> device, catalog_->Open(std::string(name)));
  device->Connect();
  std::string reply;
  Append(reply, device->size_bytes());
  Append(reply, TransmissionFlags());
  if (!no_zeroes_) reply.append(124, '\0');
  RETURN_IF_ERROR(Send(reply));
  Take(std::move(device), name);
  return absl::OkStatus();
}

absl::Status Handshake::List(absl::string_view data) {
  if (!data.empty()) return Reply(Option::kList, OptionReply::kInvalid, "LIST takes no data");
  for (const std::string& name : catalog_->Names()) {
    std::string entry;
    Append(entry, static_cast<uint32_t>(name.size()));
    entry.append(name);
    RETURN_IF_ERROR(Reply(Option::kList, OptionReply::kServer, entry));
  }
  return Reply(Option::kList, OptionReply::kAck);
}

std::string Handshake::InfoReplies(Option option, const Device& device,
                                   absl::string_view asked_name) const {
  const auto append = [option](std::string& replies, const std::string& info) {
    Append(replies, kOptionReplyMagic);
    Append(replies, static_cast<uint32_t>(option));
    Append(replies, static_cast<uint32_t>(OptionReply::kInfo));
    Append(replies, static_cast<uint32_t>(info.size()));
    replies.append(info);
  };
  const auto begin = [](Info kind) {
    std::string info;
    Append(info, static_cast<uint16_t>(kind));
    return info;
  };
  std::string replies;
  std::string info = begin(Info::kExport);
  Append(info, device.size_bytes());
  Append(info, TransmissionFlags());
  append(replies, info);
  // The name it has asked for: a list of exports by each name stays one.
  append(replies,
         begin(Info::kName) + (asked_name.empty() ? device.name() : std::string(asked_name)));
  append(replies, begin(Info::kDescription) + device.description());
  info = begin(Info::kBlockSize);
  Append(info, kBlockBytesMin);
  Append(info, kBlockBytesPreferred);
  Append(info, kPayloadBytesMax);
  append(replies, info);
  return replies;
}

// All information goes along, asked for or not: a client passes over what it does not know.
absl::Status Handshake::InfoOrGo(Option option, absl::string_view data) {
  Fields fields(data);
  absl::string_view name;
  uint16_t count = 0;
  bool well_formed = fields.TakeString(name) && fields.Take(count) && name.size() <= kNameBytesMax;
  for (uint16_t i = 0, asked = 0; i < count && well_formed; ++i) well_formed = fields.Take(asked);
  if (!well_formed || !fields.empty()) {
    return Reply(option, OptionReply::kInvalid, "the lengths in the option do not fit together");
  }
  absl::StatusOr<std::unique_ptr<Device>> device = catalog_->Open(std::string(name));
  if (!device.ok()) return Reply(option, OptionReply::kUnknown, device.status().message());
  const bool go = option == Option::kGo;
  if (go) (*device)->Connect();
  RETURN_IF_ERROR(Send(InfoReplies(option, **device, name)));
  RETURN_IF_ERROR(Reply(option, OptionReply::kAck));
  if (go) Take(*std::move(device), name);
  return absl::OkStatus();
}

absl::Status Handshake::SelectStyle(Option option, absl::string_view data) {
  const bool extended = option == Option::kExtendedHeaders;
  if (!data.empty()) return Reply(option, OptionReply::kInvalid, "the option takes no data");
  if (!extended && outcome_.style == ReplyStyle::kExtended) {
    return Reply(option, OptionReply::kExtendedHeadersRequired, "extended headers are in use");
  }
  outcome_.style = extended ? ReplyStyle::kExtended : ReplyStyle::kStructured;
  return Reply(option, OptionReply::kAck);
}

absl::Status Handshake::MetaContext(Option option, absl::string_view data) {
  const bool list = option == Option::kListMetaContext;
  if (!list) context_of_.reset();
  if (outcome_.style == ReplyStyle::kSimple) {
    return Reply(option, OptionReply::kInvalid, "structured replies must be asked for first");
  }
  const std::optional<ContextQuery> query = ParseContextQuery(data);
  if (!query.has_value() || query->export_name.size() > kNameBytesMax) {
    return Reply(option, OptionReply::kInvalid, "the lengths in the option do not fit together");
  }
  const std::string name(query->export_name);
  const absl::StatusOr<std::unique_ptr<Device>> device = catalog_->Open(name);
  if (!device.ok()) return Reply(option, OptionReply::kUnknown, device.status().message());
  if ((*device)->has_map() && AsksForAllocation(*query, list)) {
    std::string context;
    Append(context, list ? 0 : kAllocationContextId);
    context.append(kAllocationContext.data(), kAllocationContext.size());
    RETURN_IF_ERROR(Reply(option, OptionReply::kMetaContext, context));
    if (!list) context_of_ = name;
  }
  return Reply(option, OptionReply::kAck);
}

absl::Status Handshake::Reply(Option option, OptionReply reply, absl::string_view data) {
  data = data.substr(0, kNameBytesMax + 8);  // longest: an entry of a list
  std::string text;
  Append(text, kOptionReplyMagic);
  Append(text, static_cast<uint32_t>(option));
  Append(text, static_cast<uint32_t>(reply));
  Append(text, static_cast<uint32_t>(data.size()));
  text.append(data.data(), data.size());
  return Send(text);
}

absl::Status Handshake::AwaitSocket(short events) const {
  while (true) {
    const absl::Duration left = deadline_ - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the handshake takes too long");
    }
    pollfd entry = {.fd = fd_, .events = events, .revents = 0};
    const int64_t millis = absl::ToInt64Milliseconds(left) + 1;
    if (poll(&entry, 1, static_cast<int>(millis)) > 0) return absl::OkStatus();
  }
}

absl::Status Handshake::Receive(char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = recv(fd_, data, bytes, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) {
      return absl::CancelledError("the client went during the handshake");
    }
    if (got < 0) {
      if (errno != EAGAIN && errno != EINTR) return absl::ErrnoToStatus(errno, "recv");
      RETURN_IF_ERROR(AwaitSocket(POLLIN));
      continue;
    }
    data += got;
    bytes -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status Handshake::Send(absl::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(fd_, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EPIPE || errno == ECONNRESET) {
        return absl::CancelledError("the client went during the handshake");
      }
      if (errno != EAGAIN && errno != EINTR) return absl::ErrnoToStatus(errno, "send");
      RETURN_IF_ERROR(AwaitSocket(POLLOUT));
      continue;
    }
    data.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

}  // namespace understudy::nbd
