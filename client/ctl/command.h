// client/ctl/command.h
//
// Executes one invocation of understudyctl: the call, what is printed of its answer, the exit status.
#ifndef UNDERSTUDY_CLIENT_CTL_COMMAND_H_
#define UNDERSTUDY_CLIENT_CTL_COMMAND_H_

#include <iosfwd>
#include <string>

#include "absl/status/status.h"

namespace understudy::base {
class Clock;
}  // namespace understudy::base

namespace understudy::ctl {

struct Invocation;

// What scripts see.
enum ExitStatus : int { kDone = 0, kFailed = 1, kUsage = 2, kLatchedError = 3 };

// Prints the answer on `out`, an error on `error`: "error: CODE: message (REASON)" and, where one helps, a hint on the next line.
ExitStatus Execute(const Invocation& invocation, const base::Clock& clock, std::ostream& out,
                   std::ostream& error);

// "FAILED_PRECONDITION"
std::string CodeName(absl::StatusCode code);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_COMMAND_H_
