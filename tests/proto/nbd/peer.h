// tests/proto/nbd/peer.h
//
// The other end of an NBD server, for tests: Rig runs a server over disks in memory; Peer is a
// socket that says what a script says; Client keeps the protocol and has many requests in flight.
//
// A peer that waits longer than a minute for the server ends the process.
#ifndef UNDERSTUDY_TESTS_PROTO_NBD_PEER_H_
#define UNDERSTUDY_TESTS_PROTO_NBD_PEER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

#include "proto/nbd/server.h"
#include "tests/proto/nbd/memory_disk.h"
#include "tests/proto/nbd/wire.h"
#include "tests/testing/temp_dir.h"

namespace understudy::nbd::script {

class Rig {
 public:
  explicit Rig(std::vector<MemoryDisk*> disks);

  std::string socket_path() const { return directory_.File("nbd"); }
  const Figures& figures() const { return server_->figures(); }

 private:
  testing::TempDir directory_;
  MemoryCatalog catalog_;
  std::unique_ptr<Server> server_;
};

enum class Pace {
  kAtOnce,
  kByteByByte,  // each when the server has taken the one before; what is beyond 1 KiB at once
};

class Peer {
 public:
  explicit Peer(const std::string& socket_path);
  ~Peer();
  Peer(const Peer&) = delete;

  // False: the server has ended the connection.
  bool Send(absl::string_view bytes, Pace pace = Pace::kAtOnce);
  void WaitUntilTaken();  // the server has read all that was sent, or has ended the connection
  // Nothing follows; the server still answers.
  void EndSending();
  // Fewer bytes: the server has ended the connection.
  std::string Receive(size_t bytes);
  std::string ReceiveAll();
  // One message; empty when the server has ended the connection. The text of an error is taken
  // out, with its length set to 0: what it says is not part of the protocol, but that it says
  // something is checked. What begins with no magic number of a reply is taken as `other` bytes.
  std::string ReceiveMessage(size_t other);
  // Messages of so many bytes in all, or until the server ends the connection.
  std::string ReceiveMessages(size_t bytes);

 private:
  std::string ReceiveOptionReply(std::string header);
  std::string ReceiveChunk(std::string header);

  const int fd_;
};

struct Reply {
  uint32_t error = 0;
  std::string data = {};                                   // of a READ
  std::vector<std::pair<uint64_t, uint64_t>> status = {};  // of a BLOCK_STATUS: length, flags
};

// Breaches of the protocol by the server end the process.
class Client {
 public:
  // Connects, negotiates `style`, and base:allocation unless it is simple, and opens `name`.
  Client(const std::string& socket_path, Style style, const std::string& name = "");

  // The cookie is the client's to choose. Nothing is waited for.
  uint64_t Send(Request request);
  // The next reply that is complete, with its cookie. Those of several requests may be interleaved.
  std::pair<uint64_t, Reply> Receive();
  // For a client that has nothing else in flight.
  Reply Do(Request request);
  // Says good-bye, and waits for the end; nothing may be in flight.
  void Disconnect();

  Style style() const { return style_; }
  size_t in_flight() const { return in_flight_.size(); }

 private:
  struct InFlight {
    Request request;
    Reply reply = {};
    std::vector<bool> sectors_seen = {};
  };
  void Negotiate(const std::string& name);
  void TakeSimple(InFlight& one, const std::string& header);
  bool TakeChunk(InFlight& one, uint16_t flags, uint16_t type, const std::string& payload);
  void TakeContent(InFlight& one, uint16_t type, const std::string& payload);
  void TakeStatus(InFlight& one, uint16_t type, const std::string& payload);

  Peer peer_;
  const Style style_;
  uint64_t cookie_ = 0;
  uint32_t context_ = 0;
  std::map<uint64_t, InFlight> in_flight_;
};

}  // namespace understudy::nbd::script

#endif  // UNDERSTUDY_TESTS_PROTO_NBD_PEER_H_
