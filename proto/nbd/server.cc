#include "proto/nbd/server.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <poll.h>
#include <pthread.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "proto/nbd/budget.h"
#include "proto/nbd/connection.h"
#include "proto/nbd/crew.h"
#include "proto/nbd/end_log.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {
namespace {

// For how long a client may leave what it has asked for, when others wait for the memory.
constexpr absl::Duration kStalledMax = absl::Seconds(10);
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);

Peer PeerOf(int fd) {
  ucred credentials = {};
  socklen_t bytes = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) return {};
  return {.pid = credentials.pid, .uid = credentials.uid};
}

class ServerImpl : public Server {
 public:
  ServerImpl(base::UnixListener listener, Catalog* catalog)
      : listener_(std::move(listener)),
        stop_(eventfd(0, EFD_CLOEXEC)),
        budget_(kBytesMax, [this] { EndStalled(); }),
        relief_([this] { return RelieveAll(); }),
        shared_{.catalog = catalog,
                .crew = &crew_,
                .budget = &budget_,
                .relief = &relief_,
                .figures = &figures_,
                .log = &log_},
        accepter_([this] { AcceptAll(); }) {
    UNDERSTUDY_CHECK(stop_ >= 0, absl::ErrnoToStatus(errno, "eventfd").message());
    pthread_setname_np(accepter_.native_handle(), "nbd-accept");
  }
  ~ServerImpl() override;

  const Figures& figures() const override { return figures_; }

 private:
  void AcceptAll();
  bool AwaitClient() const;
  void Admit(int fd);
  // Why no connection of this peer is taken in; empty: it is, and counts.
  std::string Count(const Peer& peer);
  void Uncount(pid_t pid);
  void Serve(int fd, const Peer& peer);
  void EndStalled();
  bool RelieveAll();
  std::vector<std::shared_ptr<Connection>> Connections();

  base::UnixListener listener_;
  const int stop_;
  base::Mutex mutex_;
  base::CondVar none_left_;
  std::map<pid_t, int> of_process_ ABSL_GUARDED_BY(mutex_);
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::weak_ptr<Connection>> list_ ABSL_GUARDED_BY(mutex_);
  Figures figures_;
  EndLog log_;
  Budget budget_;
  Crew crew_{Crew::ThreadsMax()};
  Relief relief_;
  const Shared shared_;
  std::thread accepter_;  // last: it uses the rest
};

ServerImpl::~ServerImpl() {
  const uint64_t one = 1;
  while (write(stop_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  accepter_.join();
  for (const auto& connection : Connections()) connection->End(End::kClosed, "");
  base::MutexLock lock(mutex_);
  while (connections_ > 0) none_left_.Wait(mutex_);
  close(stop_);
}

std::vector<std::shared_ptr<Connection>> ServerImpl::Connections() {
  std::vector<std::shared_ptr<Connection>> connections;
  base::MutexLock lock(mutex_);
  for (const auto& entry : list_) {
    if (auto connection = entry.lock(); connection != nullptr) {
      connections.push_back(std::move(connection));
    }
  }
  return connections;
}

// False: the server ends.
bool ServerImpl::AwaitClient() const {
  pollfd entries[] = {{.fd = listener_.fd(), .events = POLLIN, .revents = 0},
                      {.fd = stop_, .events = POLLIN, .revents = 0}};
  while (poll(entries, 2, -1) < 0 && errno == EINTR) {
  }
  return entries[1].revents == 0;
}

void ServerImpl::AcceptAll() {
  bool told = false;
  while (AwaitClient()) {
    const int fd = accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) {
      told = false;
      Admit(fd);
      continue;
    }
    if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED) continue;
    if (!std::exchange(told, true)) {
      base::LogError("nbd_accept_failed")
          .With("socket", listener_.path())
          .With("status", absl::ErrnoToStatus(errno, "accept"));
    }
    pollfd stop = {.fd = stop_, .events = POLLIN, .revents = 0};
    poll(&stop, 1, static_cast<int>(absl::ToInt64Milliseconds(kAcceptPause)));
  }
}

std::string ServerImpl::Count(const Peer& peer) {
  base::MutexLock lock(mutex_);
  if (connections_ >= kConnectionsMax) {
    return absl::StrCat("there are ", kConnectionsMax, " connections; end some");
  }
  const int most = peer.pid == 0 ? kConnectionsOfUnknownMax : kConnectionsOfProcessMax;
  int& of_process = of_process_[peer.pid];
  if (of_process >= most) {
    return absl::StrCat("the process has ", most, " connections; end some");
  }
  ++of_process;
  ++connections_;
  return "";
}

void ServerImpl::Uncount(pid_t pid) {
  base::MutexLock lock(mutex_);
  const auto found = of_process_.find(pid);
  if (--found->second == 0) of_process_.erase(found);
  if (--connections_ == 0) none_left_.NotifyAll();
}

void ServerImpl::Admit(int fd) {
  const Peer peer = PeerOf(fd);
  std::string refusal = Count(peer);
  if (refusal.empty()) return Serve(fd, peer);
  close(fd);
  figures_.ends[static_cast<size_t>(End::kRefused)].fetch_add(1, std::memory_order_relaxed);
  log_.Ended(peer, "", End::kRefused, refusal);
}

void ServerImpl::Serve(int fd, const Peer& peer) {
  const auto connection =
      std::make_shared<Connection>(fd, peer, shared_, [this, pid = peer.pid] { Uncount(pid); });
  {
    base::MutexLock lock(mutex_);
    std::erase_if(list_, [](const auto& entry) { return entry.expired(); });
    list_.push_back(connection);
  }
  if (!crew_.Run([connection] { connection->Serve(); })) {
    connection->End(End::kRefused, "");
    log_.Ended(peer, "", End::kRefused, "there are no more threads; end some connections");
  }
}

void ServerImpl::EndStalled() {
  std::shared_ptr<Connection> longest;
  for (auto& connection : Connections()) {
    if (connection->stalled() < kStalledMax) continue;
    if (longest == nullptr || connection->stalled() > longest->stalled()) {
      longest = std::move(connection);
    }
  }
  if (longest == nullptr) return;
  longest->End(End::kSlow,
               "it does not take or send what it has begun, and others wait for memory");
}

bool ServerImpl::RelieveAll() {
  bool any = false;
  for (const auto& connection : Connections()) any = connection->Relieve() || any;
  return any;
}

}  // namespace

std::unique_ptr<Server> Server::Start(base::UnixListener listener, Catalog* catalog) {
  return std::make_unique<ServerImpl>(std::move(listener), catalog);
}

}  // namespace understudy::nbd
