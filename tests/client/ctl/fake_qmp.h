// tests/client/ctl/fake_qmp.h
//
// QEMU's machine protocol as a test wants it: a unix socket, one client at a time, an answer for each command by the test's own
// function.
#ifndef UNDERSTUDY_TESTS_CLIENT_CTL_FAKE_QMP_H_
#define UNDERSTUDY_TESTS_CLIENT_CTL_FAKE_QMP_H_

#include <cstring>
#include <functional>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include "client/ctl/qmp.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"

namespace understudy::ctl {

class FakeQmp {
 public:
  // Lines to send for a command, "ID" replaced by its id; empty: no answer.
  using Answer =
      std::function<std::string(const std::string& command, const JsonObject& arguments)>;

  static constexpr char kGreeting[] = R"({"QMP": {"version": {}, "capabilities": ["oob"]}})"
                                      "\r\n";
  static std::string Return(const std::string& value = "{}") {
    return absl::StrCat(R"({"return": )", value, R"(, "id": ID})", "\r\n");
  }
  static std::string Refuse(const std::string& type, const std::string& text) {
    return absl::StrCat(R"({"id": ID, "error": {"class": ")", type, R"(", "desc": ")", text,
                        "\"}}\r\n");
  }
  static std::string Event(const std::string& name, const std::string& data) {
    return absl::StrCat(R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": ")", name,
                        R"(", "data": )", data, "}\r\n");
  }

  FakeQmp(const std::string& path, Answer answer, std::string greeting = kGreeting)
      : answer_(std::move(answer)),
        greeting_(std::move(greeting)),
        listener_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    UNDERSTUDY_CHECK(
        bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, path);
    UNDERSTUDY_CHECK(listen(listener_, 1) == 0, path);
    thread_ = std::thread([this] { Serve(); });
  }
  ~FakeQmp() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  FakeQmp(const FakeQmp&) = delete;
  FakeQmp& operator=(const FakeQmp&) = delete;

  // "blockdev-add" and so on, in the order they came, without qmp_capabilities.
  std::vector<std::string> commands() const {
    base::MutexLock lock(mutex_);
    return commands_;
  }

 private:
  void Serve() {
    while (true) {
      const int client = accept(listener_, nullptr, nullptr);
      if (client < 0) return;
      Write(client, greeting_);
      std::string buffer;
      while (Read(client, buffer)) {
      }
      close(client);
    }
  }

  static void Write(int client, const std::string& text) {
    UNDERSTUDY_CHECK(send(client, text.data(), text.size(), MSG_NOSIGNAL) ==
                     static_cast<ssize_t>(text.size()));
  }

  // Takes one command; false at the end of the connection.
  bool Read(int client, std::string& buffer) {
    while (buffer.find('\n') == std::string::npos) {
      char piece[4096];
      const ssize_t count = recv(client, piece, sizeof(piece), 0);
      if (count <= 0) return false;
      buffer.append(piece, static_cast<size_t>(count));
    }
    const size_t end = buffer.find('\n');
    JsonObject message;
    UNDERSTUDY_CHECK(
        google::protobuf::util::JsonStringToMessage(buffer.substr(0, end), &message).ok(), buffer);
    buffer.erase(0, end + 1);
    Respond(client, message);
    return true;
  }

  void Respond(int client, const JsonObject& message) {
    const std::string command = TextOf(message, "execute");
    std::string answer = Return();
    if (command != "qmp_capabilities") {
      {
        base::MutexLock lock(mutex_);
        commands_.push_back(command);
      }
      answer = answer_(command, ObjectOf(message, "arguments"));
    }
    const size_t id = answer.find("ID");
    if (id != std::string::npos) answer.replace(id, 2, absl::StrCat(NumberOf(message, "id")));
    if (!answer.empty()) Write(client, answer);
  }

  const Answer answer_;
  const std::string greeting_;
  const int listener_;
  mutable base::Mutex mutex_;
  std::vector<std::string> commands_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_TESTS_CLIENT_CTL_FAKE_QMP_H_
