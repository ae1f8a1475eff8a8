// client/ctl/paused_vm.h
//
// A VM that stands still while something exact is done, and runs again afterwards, come what may.
#ifndef UNDERSTUDY_CLIENT_CTL_PAUSED_VM_H_
#define UNDERSTUDY_CLIENT_CTL_PAUSED_VM_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace understudy::ctl {

class Qmp;

class PausedVm {
 public:
  // Stops the VM, which completes its I/O first. One that does not run is left alone, by Resume() too. Errors as client/ctl/qmp.h;
  // after a `stop` without an answer the VM is told to go on.
  static absl::StatusOr<std::unique_ptr<PausedVm>> Pause(const std::string& socket,
                                                         absl::Duration timeout);
  ~PausedVm();  // resumes it
  PausedVm(const PausedVm&) = delete;
  PausedVm& operator=(const PausedVm&) = delete;

  // Once. On error the VM may stand still: the message says what to do.
  absl::Status Resume();

 private:
  explicit PausedVm(std::unique_ptr<Qmp> qmp);

  const std::unique_ptr<Qmp> qmp_;
  bool paused_ = false;  // by us
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_PAUSED_VM_H_
