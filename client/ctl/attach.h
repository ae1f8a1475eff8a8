// client/ctl/attach.h
//
// The commands `attach` and `detach`: a running VM's disk is mirrored to a forward-mode volume of an agent, without a reboot, by QEMU
// itself: blockdev-add nbd, then blockdev-mirror in copy mode write-blocking. QEMU makes the first copy; the group is declared
// complete when the mirrors of all its volumes are ready, and only then there is a checkpoint.
//
// Names    the NBD node and the mirror job of a volume have the same name, AttachmentName(): so each can be found again from the
//          other, and by hand.
// Again    attach of what is attached already follows the copy, or only declares: after a Ctrl-C of --no-wait's other half, or
//          when the last step has failed.
// Undone   is what attach itself began, when it fails before the copy is ready or is interrupted; the standby stays at its last
//          checkpoint. A copy that is ready is not thrown away.
#ifndef UNDERSTUDY_CLIENT_CTL_ATTACH_H_
#define UNDERSTUDY_CLIENT_CTL_ATTACH_H_

#include <iosfwd>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace understudy::v1 {
class GetStatusResponse;
class SyncResponse;
enum SyncMode : int;
}  // namespace understudy::v1

namespace understudy::ctl {

struct AttachCommand;
struct DetachCommand;
struct Invocation;

// "understudy-vda". A long name of a volume is cut and told apart by its checksum: QEMU's node names have at most 31 characters.
std::string AttachmentName(absl::string_view volume);

// What attach asks of the agent.
struct AgentCalls {
  absl::FunctionRef<absl::StatusOr<v1::GetStatusResponse>(const std::string& group)> status;
  absl::FunctionRef<absl::StatusOr<v1::SyncResponse>(const std::string& group, v1::SyncMode mode)>
      sync;
};

// Prints what it has done on `out` (which must be standard output when `command.live`), the progress of the copy there or on
// `progress`. kAborted after SIGINT or SIGTERM.
absl::Status Attach(const AttachCommand& command, const Invocation& invocation,
                    const AgentCalls& agent, std::ostream& out, std::ostream& progress);

// Ends the mirror, so that the standby's side has all that was written until then, and takes the node away. Asks no agent.
absl::Status Detach(const DetachCommand& command, const Invocation& invocation, std::ostream& out);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_ATTACH_H_
