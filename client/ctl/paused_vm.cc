#include "client/ctl/paused_vm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include <google/protobuf/struct.pb.h>

#include "client/ctl/qmp.h"
#include "storage/base/status_macros.h"

namespace understudy::ctl {

PausedVm::PausedVm(std::unique_ptr<Qmp> qmp) : qmp_(std::move(qmp)) {}

absl::StatusOr<std::unique_ptr<PausedVm>> PausedVm::Pause(const std::string& socket,
                                                          absl::Duration timeout) {
  ASSIGN_OR_RETURN(std::unique_ptr<Qmp> qmp, Qmp::Connect(socket, timeout));
  ASSIGN_OR_RETURN(const JsonValue status, qmp->Execute("query-status"));
  auto vm = std::unique_ptr<PausedVm>(new PausedVm(std::move(qmp)));
  if (!FlagOf(status.struct_value(), "running")) return vm;
  vm->paused_ = true;
  RETURN_IF_ERROR(vm->qmp_->Execute("stop").status());
  return vm;
}

PausedVm::~PausedVm() { Resume().IgnoreError(); }

absl::Status PausedVm::Resume() {
  if (!paused_) return absl::OkStatus();
  paused_ = false;
  const absl::Status resumed = qmp_->Execute("cont").status();
  if (resumed.ok()) return resumed;
  return {resumed.code(), absl::StrCat(resumed.message(),
                                       "; THE VM MAY STAND STILL: give it cont by hand, as with "
                                       "virsh resume or in its monitor")};
}

}  // namespace understudy::ctl
