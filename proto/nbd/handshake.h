// proto/nbd/handshake.h
//
// The first part of a connection: what the client asks for, option by option, until it takes an
// export. Nothing is kept of a client that only looks.
#ifndef UNDERSTUDY_PROTO_NBD_HANDSHAKE_H_
#define UNDERSTUDY_PROTO_NBD_HANDSHAKE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "proto/nbd/device.h"
#include "proto/nbd/wire.h"

namespace understudy::nbd {

class Handshake {
 public:
  static constexpr absl::Duration kTimeout = absl::Seconds(10);

  struct Outcome {
    std::unique_ptr<Device> device;  // connected
    ReplyStyle style = ReplyStyle::kSimple;
    bool block_status = false;  // base:allocation was selected
  };

  // `fd`, a blocking socket, and `catalog` outlive this.
  Handshake(int fd, Catalog* catalog) : fd_(fd), catalog_(catalog) {}

  // Blocks until the client has taken an export. kCancelled: it went without one; kNotFound: the one
  // that it wanted is not there; kDeadlineExceeded: it took longer than kTimeout; kInvalidArgument:
  // what it sent is no NBD, or more than anybody needs.
  absl::StatusOr<Outcome> Run();

 private:
  absl::Status Greet();
  absl::Status RunOption();
  absl::Status Answer(Option option, absl::string_view data);
  absl::Status ExportName(absl::string_view name);
  absl::Status List(absl::string_view data);
  absl::Status InfoOrGo(Option option, absl::string_view data);
  absl::Status SelectStyle(Option option, absl::string_view data);
  absl::Status MetaContext(Option option, absl::string_view data);

  std::string InfoReplies(Option option, const Device& device, absl::string_view asked_name) const;
  uint16_t TransmissionFlags() const;
  void Take(std::unique_ptr<Device> device, absl::string_view asked_name);

  absl::Status Reply(Option option, OptionReply reply, absl::string_view data = "");
  absl::Status Receive(char* data, size_t bytes);
  absl::Status Send(absl::string_view data);
  absl::Status AwaitSocket(short events) const;

  const int fd_;
  Catalog* const catalog_;
  absl::Duration deadline_;  // on the steady clock
  bool fixed_ = false;       // what the client's flags say
  bool no_zeroes_ = false;
  std::optional<std::string>
      context_of_;  // base:allocation is selected for the export of this name
  Outcome outcome_;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_HANDSHAKE_H_
