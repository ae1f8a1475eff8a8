// client/agent/exports.h
//
// The volumes of a Primary as NBD asks for them, each by GROUP/VOLUME. An only one is the default.
#ifndef UNDERSTUDY_CLIENT_AGENT_EXPORTS_H_
#define UNDERSTUDY_CLIENT_AGENT_EXPORTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/primary.h"
#include "proto/nbd/device.h"

namespace understudy::client {

class Exports : public nbd::Catalog {
 public:
  explicit Exports(Primary* primary) : primary_(primary) {}

  std::vector<std::string> Names() override;
  // A name that nobody has is logged.
  absl::StatusOr<std::unique_ptr<nbd::Device>> Open(const std::string& name) override;

 private:
  Primary* const primary_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_AGENT_EXPORTS_H_
