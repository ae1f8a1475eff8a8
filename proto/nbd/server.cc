#include "proto/nbd/server.h"

#include "storage/base/log.h"

namespace understudy::nbd {

std::unique_ptr<Server> Server::Start(base::UnixListener, Catalog*) {
  UNDERSTUDY_CHECK(false, "to be written");
  return nullptr;
}

}  // namespace understudy::nbd
