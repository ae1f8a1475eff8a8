// client/ctl/qmp.h
//
// Qmp speaks QEMU's machine protocol over a unix socket, as far as understudyctl needs it: one command at a time, and events.
//
//     qemu-system-x86_64 ... -qmp unix:/run/vm1.qmp,server=on,wait=off
//
// Bounds   every call ends after the timeout given to Connect(). A message is at most 16 MiB long; of events that nobody takes the
//          newest 1,000 are kept.
// Errors   all name the socket. kUnavailable: nobody listens there, or QEMU has gone; kDeadlineExceeded: no answer, as when another
//          client has the socket, which serves one at a time; kNotFound, kUnimplemented, else kFailedPrecondition: QEMU's own refusal,
//          with the command, its class and its description; kDataLoss: what came is not QMP. After all but a refusal the
//          connection is of no more use.
// Threads  none of its own; one at a time.
// Source   QEMU docs/interop/qmp-spec.txt.
#ifndef UNDERSTUDY_CLIENT_CTL_QMP_H_
#define UNDERSTUDY_CLIENT_CTL_QMP_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace google::protobuf {
class Struct;
class Value;
}  // namespace google::protobuf
namespace understudy::base {
class Deadline;
}  // namespace understudy::base

namespace understudy::ctl {

// Whoever looks into one reads <google/protobuf/struct.pb.h>.
using JsonObject = google::protobuf::Struct;
using JsonValue = google::protobuf::Value;

// An object to send, member by member: QmpArguments().Text("device", "disk0").Number("speed", 0).object().
class QmpArguments {
 public:
  QmpArguments();
  ~QmpArguments();
  QmpArguments& Text(const std::string& name, absl::string_view value);
  QmpArguments& Number(const std::string& name, double value);
  QmpArguments& Flag(const std::string& name, bool value);
  QmpArguments& Object(const std::string& name, const QmpArguments& value);
  const JsonObject& object() const { return *object_; }

 private:
  const std::unique_ptr<JsonObject> object_;
};

// A member of what has come; empty, 0 or false when it is missing or of another type.
std::string TextOf(const JsonObject& object, const std::string& name);
double NumberOf(const JsonObject& object, const std::string& name);
bool FlagOf(const JsonObject& object, const std::string& name);
JsonObject ObjectOf(const JsonObject& object, const std::string& name);

struct QmpEvent {
  std::string name;  // "BLOCK_JOB_READY"
  std::shared_ptr<const JsonObject> data;
};

class Qmp {
 public:
  // Greets and negotiates: commands can be executed.
  static absl::StatusOr<std::unique_ptr<Qmp>> Connect(const std::string& socket,
                                                      absl::Duration timeout);
  ~Qmp();
  Qmp(const Qmp&) = delete;
  Qmp& operator=(const Qmp&) = delete;

  // What `command` returned.
  absl::StatusOr<JsonValue> Execute(const std::string& command, const QmpArguments& arguments = {});
  // The oldest event that was not given out yet; none when none comes for `wait`.
  absl::StatusOr<std::optional<QmpEvent>> NextEvent(absl::Duration wait);

  const std::string& socket() const { return socket_; }

 private:
  Qmp(std::string socket, int fd, absl::Duration timeout);

  absl::Status Greet();
  absl::Status Send(const JsonObject& message);
  // The next message, of any kind.
  absl::StatusOr<JsonObject> Receive(const base::Deadline& deadline);
  absl::StatusOr<bool> Fill(const base::Deadline& deadline);  // false: it has passed
  bool HasMessage() const { return buffer_.find('\n') != std::string::npos; }
  void KeepEvent(const JsonObject& message);
  absl::Status Error(absl::StatusCode code, absl::string_view message) const;
  absl::Status Refused(const std::string& command, const JsonObject& error) const;

  const std::string socket_;
  const int fd_;
  const absl::Duration timeout_;
  std::string buffer_;  // received, not yet taken apart
  std::deque<QmpEvent> events_;
  double next_id_ = 1;
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_QMP_H_
