// server/nbd/exports.h
//
// The exports of a Service as NBD asks for them: each volume by GROUP/VOLUME and by its top-id, and
// those of clones by GROUP@CLONE/VOLUME.
#ifndef UNDERSTUDY_SERVER_NBD_EXPORTS_H_
#define UNDERSTUDY_SERVER_NBD_EXPORTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "proto/nbd/device.h"
#include "server/service.h"

namespace understudy::server {

class Exports : public nbd::Catalog {
 public:
  explicit Exports(Service* service) : service_(service) {}

  std::vector<std::string> Names() override { return service_->ExportNames(); }
  // A name that nobody has is logged.
  absl::StatusOr<std::unique_ptr<nbd::Device>> Open(const std::string& name) override;

 private:
  Service* const service_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_NBD_EXPORTS_H_
