// proto/nbd/end_log.h
//
// EndLog is what the log says of connections that ended otherwise than they should. A client that
// comes again and again costs kLinesMax lines in kInterval; the next line counts those left out.
//
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_PROTO_NBD_END_LOG_H_
#define UNDERSTUDY_PROTO_NBD_END_LOG_H_

#include <cstdint>
#include <string>
#include <sys/types.h>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "proto/nbd/figures.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {

// Who is at the other end of a socket, as the kernel says.
struct Peer {
  pid_t pid = 0;  // 0: of a process that this one cannot see
  uid_t uid = 0;
};

class EndLog {
 public:
  static constexpr uint64_t kLinesMax = 20;
  static constexpr absl::Duration kInterval = absl::Seconds(60);

  // `name`: of the export, if the client has taken one.
  void Ended(const Peer& peer, const std::string& name, End why, absl::string_view text);

 private:
  base::Mutex mutex_;
  absl::Duration since_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  uint64_t lines_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_END_LOG_H_
