// What a server counts of its requests, where it could go wrong.
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include <gtest/gtest.h>

#include "proto/nbd/server.h"
#include "storage/base/unix_socket.h"
#include "storage/base/window_time.h"
#include "tests/proto/nbd/peer.h"
#include "tests/testing/temp_dir.h"

namespace understudy::nbd::figures_test {
namespace {

using script::Client;
using script::Request;
using script::Style;

constexpr absl::Duration kInWindow = absl::Milliseconds(20);

// Has no room in its window until it is told otherwise, and finds that out slowly.
class NarrowDevice : public Device {
 public:
  explicit NarrowDevice(std::atomic<bool>* room) : room_(*room) {}

  const std::string& name() const override { return name_; }
  std::string description() const override { return ""; }
  uint64_t size_bytes() const override { return 1 << 20; }
  bool has_map() const override { return false; }
  size_t TryWrite(std::span<const Write> writes) override {
    if (room_) return writes.size();
    const base::WindowTime::Scope in_window;
    absl::SleepFor(kInWindow);
    return 0;
  }
  absl::Status Read(uint64_t, std::span<char>) override { return absl::OkStatus(); }
  void WriteAll(std::span<const Write>, std::span<absl::Status>) override {}
  absl::Status WriteZeroes(ByteRange, ZeroedSpace, bool) override { return absl::OkStatus(); }
  absl::Status Trim(ByteRange, bool) override { return absl::OkStatus(); }
  absl::Status Flush() override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange, size_t) override {
    return absl::UnimplementedError("");
  }

 private:
  const std::string name_ = "disk";
  std::atomic<bool>& room_;
};

class FiguresTest : public ::testing::Test, public Catalog {
 protected:
  std::vector<std::string> Names() override { return {"disk"}; }
  absl::StatusOr<std::unique_ptr<Device>> Open(const std::string&) override {
    return std::make_unique<NarrowDevice>(&room_);
  }
  const Figures::OfKind& Of(Kind kind) const {
    return server_->figures().kinds[static_cast<size_t>(kind)];
  }
  static uint64_t SumMicros(const Figures::OfKind& figures, Stage stage) {
    return figures.latency[static_cast<size_t>(stage)].sum_micros();
  }

  std::atomic<bool> room_{false};
  testing::TempDir directory_;
  const std::string path_ = directory_.File("nbd");
  std::unique_ptr<Server> server_ =
      Server::Start(base::UnixListener::Listen(path_, {}).value(), this);
};

TEST_F(FiguresTest, DeclinedTimeIsNobodysAndUnknownCommandsAreNoReads) {
  const Request write = {
      .command = script::kWrite, .length = 512, .payload = std::string(512, 'x')};
  Client client(path_, Style::kStructured);
  for (int i = 0; i < 3; ++i) client.Do(write);
  room_ = true;
  for (int i = 0; i < 3; ++i) client.Do(write);
  client.Do({.command = 77, .length = 512});
  client.Do({.command = script::kFlush});
  client.Disconnect();
  while (server_->figures().connections.load() > 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Of(Kind::kWrite).requests.load(), 6u);
  EXPECT_LT(SumMicros(Of(Kind::kWrite), Stage::kLocal), uint64_t{60'000'000});
  EXPECT_EQ(SumMicros(Of(Kind::kWrite), Stage::kWindow), 0u) << "declined time went to another";
  EXPECT_EQ(Of(Kind::kRead).requests.load(), 0u);
}

}  // namespace
}  // namespace understudy::nbd::figures_test
