#include "client/ctl/qmp.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/str_cat.h"
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include "storage/base/deadline.h"
#include "storage/base/status_macros.h"

namespace understudy::ctl {
namespace {

constexpr size_t kMessageBytesMax = 16 << 20;
constexpr size_t kEventsMax = 1000;
constexpr char kBusy[] = "no answer: another client, such as libvirt, may have the socket";

const JsonValue* Find(const JsonObject& object, const std::string& name) {
  const auto found = object.fields().find(name);
  return found == object.fields().end() ? nullptr : &found->second;
}

// Readiness of `fd` for `events`; false when the deadline passed first.
bool WaitFor(int fd, int16_t events, const base::Deadline& deadline) {
  while (true) {
    const absl::Duration left = deadline.Slice(deadline.left());
    pollfd waiting = {.fd = fd, .events = events, .revents = 0};
    const int ready = poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return true;
    if (deadline.over()) return false;
  }
}

}  // namespace

QmpArguments::QmpArguments() : object_(std::make_unique<JsonObject>()) {}
QmpArguments::~QmpArguments() = default;

QmpArguments& QmpArguments::Text(const std::string& name, absl::string_view value) {
  (*object_->mutable_fields())[name].set_string_value(std::string(value));
  return *this;
}
QmpArguments& QmpArguments::Number(const std::string& name, double value) {
  (*object_->mutable_fields())[name].set_number_value(value);
  return *this;
}
QmpArguments& QmpArguments::Flag(const std::string& name, bool value) {
  (*object_->mutable_fields())[name].set_bool_value(value);
  return *this;
}
QmpArguments& QmpArguments::Object(const std::string& name, const QmpArguments& value) {
  *(*object_->mutable_fields())[name].mutable_struct_value() = value.object();
  return *this;
}

std::string TextOf(const JsonObject& object, const std::string& name) {
  const JsonValue* const value = Find(object, name);
  return value == nullptr ? "" : value->string_value();
}
double NumberOf(const JsonObject& object, const std::string& name) {
  const JsonValue* const value = Find(object, name);
  return value == nullptr ? 0 : value->number_value();
}
bool FlagOf(const JsonObject& object, const std::string& name) {
  const JsonValue* const value = Find(object, name);
  return value != nullptr && value->bool_value();
}
JsonObject ObjectOf(const JsonObject& object, const std::string& name) {
  const JsonValue* const value = Find(object, name);
  return value == nullptr ? JsonObject() : value->struct_value();
}

Qmp::Qmp(std::string socket, int fd, absl::Duration timeout)
    : socket_(std::move(socket)), fd_(fd), timeout_(timeout) {}

Qmp::~Qmp() { close(fd_); }

absl::Status Qmp::Error(absl::StatusCode code, absl::string_view message) const {
  return {code, absl::StrCat("qmp ", socket_, ": ", message)};
}

absl::Status Qmp::Refused(const std::string& command, const JsonObject& error) const {
  const std::string type = TextOf(error, "class");
  const absl::StatusCode code = type == "DeviceNotFound" || type == "DeviceNotActive"
                                    ? absl::StatusCode::kNotFound
                                : type == "CommandNotFound" ? absl::StatusCode::kUnimplemented
                                                            : absl::StatusCode::kFailedPrecondition;
  return Error(code, absl::StrCat(command, ": ", type, ": ", TextOf(error, "desc")));
}

absl::StatusOr<std::unique_ptr<Qmp>> Qmp::Connect(const std::string& socket,
                                                  absl::Duration timeout) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("qmp ", socket, ": the path is longer than ",
                                                   sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, socket.data(), socket.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("qmp ", socket));
  auto qmp = std::unique_ptr<Qmp>(new Qmp(socket, fd, timeout));
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EAGAIN) return qmp->Error(absl::StatusCode::kUnavailable, kBusy);
    return qmp->Error(
        absl::StatusCode::kUnavailable,
        absl::StrCat("cannot connect: ", strerror(errno),
                     " (remedy: start QEMU with -qmp unix:", socket, ",server=on,wait=off)"));
  }
  RETURN_IF_ERROR(qmp->Greet());
  return qmp;
}

absl::Status Qmp::Greet() {
  const absl::StatusOr<JsonObject> greeting = Receive(base::Deadline::After(timeout_));
  if (absl::IsDeadlineExceeded(greeting.status())) {
    return Error(absl::StatusCode::kDeadlineExceeded, kBusy);
  }
  if (!greeting.ok()) return greeting.status();
  if (Find(*greeting, "QMP") == nullptr) {
    return Error(absl::StatusCode::kDataLoss, "the greeting is not QMP's");
  }
  return Execute("qmp_capabilities").status();
}

absl::Status Qmp::Send(const JsonObject& message) {
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text).ok()) {
    return Error(absl::StatusCode::kInternal, "a message that cannot be written as JSON");
  }
  text += "\n";
  const base::Deadline deadline = base::Deadline::After(timeout_);
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t count = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count > 0) {
      sent += static_cast<size_t>(count);
    } else if (errno != EAGAIN && errno != EINTR) {
      return Error(absl::StatusCode::kUnavailable,
                   absl::StrCat("connection lost: ", strerror(errno)));
    } else if (!WaitFor(fd_, POLLOUT, deadline)) {
      return Error(absl::StatusCode::kDeadlineExceeded, "it takes no more commands");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Qmp::Fill(const base::Deadline& deadline) {
  if (!WaitFor(fd_, POLLIN, deadline)) return false;
  std::array<char, 16384> piece;
  const ssize_t count = recv(fd_, piece.data(), piece.size(), 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (count <= 0) {
    return Error(absl::StatusCode::kUnavailable, "connection closed: QEMU has ended, or does so");
  }
  buffer_.append(piece.data(), static_cast<size_t>(count));
  if (buffer_.size() > kMessageBytesMax) {
    return Error(absl::StatusCode::kDataLoss, "a message is longer than 16 MiB");
  }
  return true;
}

absl::StatusOr<JsonObject> Qmp::Receive(const base::Deadline& deadline) {
  while (!HasMessage()) {
    ASSIGN_OR_RETURN(const bool filled, Fill(deadline));
    if (!filled) return Error(absl::StatusCode::kDeadlineExceeded, "no answer");
  }
  const size_t end = buffer_.find('\n');
  const std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  JsonObject message;
  if (!google::protobuf::util::JsonStringToMessage(line, &message).ok()) {
    return Error(absl::StatusCode::kDataLoss, absl::StrCat("not JSON: ", line.substr(0, 200)));
  }
  return message;
}

void Qmp::KeepEvent(const JsonObject& message) {
  if (events_.size() >= kEventsMax) events_.pop_front();
  events_.push_back({.name = TextOf(message, "event"),
                     .data = std::make_shared<JsonObject>(ObjectOf(message, "data"))});
}

absl::StatusOr<JsonValue> Qmp::Execute(const std::string& command, const QmpArguments& arguments) {
  const double id = next_id_++;
  QmpArguments message;
  message.Text("execute", command).Number("id", id);
  if (arguments.object().fields_size() > 0) message.Object("arguments", arguments);
  RETURN_IF_ERROR(Send(message.object()));
  const base::Deadline deadline = base::Deadline::After(timeout_);
  while (true) {
    const absl::StatusOr<JsonObject> answer = Receive(deadline);
    if (absl::IsDeadlineExceeded(answer.status())) {
      return Error(absl::StatusCode::kDeadlineExceeded,
                   absl::StrCat(command, ": no answer for ", absl::FormatDuration(timeout_)));
    }
    if (!answer.ok()) return answer.status();
    if (Find(*answer, "event") != nullptr) {
      KeepEvent(*answer);
      continue;
    }
    if (Find(*answer, "id") != nullptr && NumberOf(*answer, "id") != id) continue;  // given up on
    if (Find(*answer, "error") != nullptr) return Refused(command, ObjectOf(*answer, "error"));
    const JsonValue* const returned = Find(*answer, "return");
    if (returned != nullptr) return *returned;
    return Error(absl::StatusCode::kDataLoss, absl::StrCat(command, ": neither return nor error"));
  }
}

absl::StatusOr<std::optional<QmpEvent>> Qmp::NextEvent(absl::Duration wait) {
  const base::Deadline deadline = base::Deadline::After(wait);
  while (events_.empty()) {
    const absl::StatusOr<JsonObject> message = Receive(deadline);
    if (absl::IsDeadlineExceeded(message.status())) return std::optional<QmpEvent>();
    if (!message.ok()) return message.status();
    if (Find(*message, "event") != nullptr) KeepEvent(*message);
  }
  std::optional<QmpEvent> event = std::move(events_.front());
  events_.pop_front();
  return event;
}

}  // namespace understudy::ctl
