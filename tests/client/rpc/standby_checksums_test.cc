// What the standby holds, as hashes over a real connection: from the service over a real store, and from a service that misbehaves.
#include "client/rpc/standby_checksums.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "server/rpc/write_stream.h"
#include "server/service.h"
#include "storage/base/block_hash.h"
#include "storage/base/mutex.h"
#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"
#include "tests/testing/seed.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::standby_checksums_test {
namespace {

using Content = ChecksumSlice::Content;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kVolumeBytes = 12 * kMiB + 512;

class Server {
 public:
  Server(const std::string& address, grpc::Service* service) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials()).RegisterService(service);
    server_ = builder.BuildAndStart();
  }
  ~Server() { server_->Shutdown(std::chrono::system_clock::now()); }

 private:
  std::unique_ptr<grpc::Server> server_;
};

// What a Fetch() gave, as a primary would compare it.
struct Fetched {
  absl::Status status;
  std::vector<ChecksumSlice> slices;
};

Fetched FetchAll(ChecksumSource& source, const Grant& grant, ByteRange range,
                 const std::string& volume = "v0", const std::string& group = "vm1") {
  Fetched fetched;
  fetched.status = source.Fetch(group, grant, volume, range, [&](ChecksumSlice slice) {
    fetched.slices.push_back(std::move(slice));
    return absl::OkStatus();
  });
  return fetched;
}

// ---- the real service over a real store ------------------------------------------------------------------------------------------

class StandbyChecksumsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    const storage::ReplicaState state = f_.replica().state();
    grant_ = {.incarnation = state.incarnation, .term = state.term};
    primary_ = f_.initial(0);
    service_ = std::make_unique<server::Service>(f_.store(), base::Clock::Real());
    writes_ = std::make_unique<server::PrimaryWritesService>(*service_);
    const std::string address = absl::StrCat("unix:", f_.directory(), "/s.sock");
    server_ = std::make_unique<Server>(address, writes_.get());
    source_ = std::make_unique<StandbyChecksums>(address);
    hasty_ = std::make_unique<StandbyChecksums>(address, absl::Seconds(3));
  }
  void TearDown() override {
    source_.reset();
    server_.reset();
    writes_.reset();
    service_.reset();
  }
  void Write(uint64_t offset, const std::string& data) {
    ASSERT_EQ(f_.PrimaryWrite(0, offset, data), absl::OkStatus());
    primary_.replace(offset, data.size(), data);
  }
  void ExpectSame(const Fetched& fetched, ByteRange range) {
    ASSERT_EQ(fetched.status, absl::OkStatus());
    for (const ChecksumSlice& slice : fetched.slices) {
      EXPECT_EQ(slice.range.start, range.start);
      range.start = slice.range.end;
      const std::string ours = primary_.substr(slice.range.start, slice.range.size());
      std::string hashes;
      base::AppendBlockHashes(ours, &hashes);
      EXPECT_NE(slice.content, Content::kUnreadable);
      if (slice.content == Content::kZero) {
        EXPECT_TRUE(base::AllZero(ours)) << slice.range.ToString();
      } else {
        EXPECT_TRUE(slice.hashes == hashes) << slice.range.ToString();
      }
    }
    EXPECT_TRUE(range.empty()) << range.ToString();
  }

  storage::StoreFixture f_{testing::TestSeed(), 1, kVolumeBytes};
  Grant grant_;
  std::string primary_;
  std::unique_ptr<server::Service> service_;
  std::unique_ptr<server::PrimaryWritesService> writes_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<StandbyChecksums> source_;
  std::unique_ptr<StandbyChecksums> hasty_;
};

TEST_F(StandbyChecksumsTest, TheHashesAreThoseOfWhatThePrimaryWrote) {
  ExpectSame(FetchAll(*source_, grant_, {0, kVolumeBytes}), {0, kVolumeBytes});
  Write(3 * kMiB + 512, f_.Bytes(65536));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  Write(kVolumeBytes - 512, f_.Bytes(512));
  ASSERT_EQ(f_.PrimaryZero(0, 5 * kMiB, 3 * kMiB), absl::OkStatus());
  primary_.replace(5 * kMiB, 3 * kMiB, 3 * kMiB, '\0');
  const Fetched fetched = FetchAll(*source_, grant_, {0, kVolumeBytes});
  ExpectSame(fetched, {0, kVolumeBytes});
  EXPECT_EQ(fetched.slices.size(), 11u) << "three slices of zeroes are one";
  ExpectSame(FetchAll(*source_, grant_, {3 * kMiB + 4096, 4 * kMiB + 8192}),
             {3 * kMiB + 4096, 4 * kMiB + 8192});
}

TEST_F(StandbyChecksumsTest, ManyFetchesRunAtOnceWhileThePrimaryWritesAndCheckpoints) {
  std::vector<Fetched> fetched(24);
  std::vector<std::thread> threads;
  for (Fetched& one : fetched) {
    threads.emplace_back([&] { one = FetchAll(*source_, grant_, {0, kVolumeBytes}); });
  }
  for (int i = 0; i < 50; ++i) {
    Write(f_.random()() % 2000 * 4096, f_.Bytes(16384));
    if (i % 5 == 0) {
      ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (const Fetched& one : fetched) EXPECT_EQ(one.status, absl::OkStatus());
  ExpectSame(FetchAll(*source_, grant_, {0, kVolumeBytes}), {0, kVolumeBytes});
}

TEST_F(StandbyChecksumsTest, RefusalsArriveWithTheirReasons) {
  const ByteRange range = {0, 4096};
  const absl::Status unknown = FetchAll(*source_, grant_, range, "v0", "vm7").status;
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(HasReason(unknown, kReasonUnknownGroup));
  EXPECT_EQ(FetchAll(*source_, grant_, range, "v7").status.code(),
            absl::StatusCode::kInvalidArgument);
  const Grant stale = {.incarnation = grant_.incarnation, .term = Term(grant_.term.value() + 1)};
  EXPECT_TRUE(HasReason(FetchAll(*source_, stale, range).status, kReasonFenced));
  EXPECT_EQ(FetchAll(*source_, grant_, {0, kVolumeBytes + 4096}).status.code(),
            absl::StatusCode::kOutOfRange);
}

// A slice that was read when the standby failed over is not sent any more.
TEST_F(StandbyChecksumsTest, AFailoverEndsAFetch) {
  std::atomic<bool> failed_over = false;
  f_.files().SetRangeHook(
      [&](testing::FileOperation operation, const std::string& path, ByteRange range) {
        const bool held = operation == testing::FileOperation::kRead &&
                          path.ends_with("/disk0.img") && range.Overlaps({2 * kMiB, 3 * kMiB});
        while (held && !failed_over) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return absl::OkStatus();
      });
  uint64_t reached = 0;
  const absl::Status status =
      source_->Fetch("vm1", grant_, "v0", {0, kVolumeBytes}, [&](const ChecksumSlice& slice) {
        reached = slice.range.end;
        if (reached < 2 * kMiB) return absl::OkStatus();
        const absl::Status done = f_.replica().Failover({});
        failed_over = true;
        return done;
      });
  EXPECT_TRUE(HasReason(status, kReasonFenced)) << status;
  EXPECT_EQ(reached, 2 * kMiB);
  f_.files().SetHook(nullptr);
}

TEST_F(StandbyChecksumsTest, AnErrorOfTheTakerEndsAFetchAndIsReturned) {
  int slices = 0;
  const absl::Status status =
      source_->Fetch("vm1", grant_, "v0", {0, kVolumeBytes}, [&](const ChecksumSlice&) {
        ++slices;
        return absl::DataLossError("the primary's disk fails");
      });
  EXPECT_EQ(status, absl::DataLossError("the primary's disk fails"));
  EXPECT_EQ(slices, 1);
  ExpectSame(FetchAll(*source_, grant_, {0, kVolumeBytes}), {0, kVolumeBytes});
}

TEST_F(StandbyChecksumsTest, ASliceOfAFailingDiskIsUnreadableAndTheNextOneIsNot) {
  f_.files().SetRangeHook([](testing::FileOperation operation, const std::string& path,
                             ByteRange range) {
    const bool fails = operation == testing::FileOperation::kRead && path.ends_with("/disk0.img") &&
                       range.Overlaps({2 * kMiB, 2 * kMiB + 4096});
    return fails ? absl::InternalError("disk0.img: EIO") : absl::OkStatus();
  });
  const Fetched fetched = FetchAll(*source_, grant_, {kMiB, 4 * kMiB});
  ASSERT_EQ(fetched.status, absl::OkStatus());
  ASSERT_EQ(fetched.slices.size(), 3u);
  EXPECT_EQ(fetched.slices[0].content, Content::kHashes);
  EXPECT_EQ(fetched.slices[1].content, Content::kUnreadable);
  EXPECT_EQ(fetched.slices[2].content, Content::kHashes);
  EXPECT_EQ(service_->FindGroup("vm1").value()->GetError()->errors.size(), 1u);
  f_.files().SetHook(nullptr);
}

TEST_F(StandbyChecksumsTest, AHangingDiskHoldsNeitherTheCallerNorOtherCalls) {
  std::atomic<bool> hangs = true;
  std::atomic<int> hanging = 0;
  f_.files().SetRangeHook(
      [&](testing::FileOperation operation, const std::string& path, ByteRange range) {
        if (operation != testing::FileOperation::kRead || !path.ends_with("/disk0.img") ||
            !range.Overlaps({2 * kMiB, 2 * kMiB + 4096})) {
          return absl::OkStatus();
        }
        ++hanging;
        while (hangs) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        --hanging;
        return absl::OkStatus();
      });
  const Fetched fetched = FetchAll(*hasty_, grant_, {kMiB, 4 * kMiB});
  EXPECT_EQ(fetched.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(fetched.status.message()),
              HasSubstr("group vm1: checksums of volume v0: the standby has said nothing for"));
  EXPECT_EQ(fetched.slices.size(), 1u);
  EXPECT_EQ(hanging, 1);
  ExpectSame(FetchAll(*source_, grant_, {4 * kMiB, kVolumeBytes}), {4 * kMiB, kVolumeBytes});
  Write(2 * kMiB, f_.Bytes(4096));  // nor the primary's writes and their checkpoints
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  hangs = false;
  while (hanging > 0) std::this_thread::yield();
  f_.files().SetHook(nullptr);
}

TEST_F(StandbyChecksumsTest, AStandbyThatIsNotThereIsUnavailable) {
  StandbyChecksums nobody(absl::StrCat("unix:", f_.directory(), "/nobody.sock"));
  const absl::Status status = FetchAll(nobody, grant_, {0, 4096}).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("group vm1: checksums of volume v0: "));
}

// ---- a service that says what it should not ---------------------------------------------------------------------------------------

class ScriptedService : public v1::PrimaryWrites::Service {
 public:
  std::atomic<bool> hangs = false;  // after the answers, until the call is cancelled
  // To the calls that begin from now on: one that was given up may still be answering.
  void SetAnswers(std::vector<v1::ChecksumsResponse> answers) {
    const base::MutexLock lock(mutex_);
    answers_ = std::move(answers);
  }

  grpc::Status Checksums(grpc::ServerContext* context, const v1::ChecksumsRequest* /*request*/,
                         grpc::ServerWriter<v1::ChecksumsResponse>* writer) override {
    std::vector<v1::ChecksumsResponse> answers;
    {
      const base::MutexLock lock(mutex_);
      answers = answers_;
    }
    for (const v1::ChecksumsResponse& answer : answers) writer->Write(answer);
    while (hangs && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return grpc::Status::OK;
  }

 private:
  base::Mutex mutex_;
  std::vector<v1::ChecksumsResponse> answers_ ABSL_GUARDED_BY(mutex_);
};

class ScriptedChecksumsTest : public ::testing::Test {
 protected:
  static v1::ChecksumsResponse Zero(uint64_t offset, uint64_t length) {
    v1::ChecksumsResponse response;
    response.set_offset(offset);
    response.set_length(length);
    response.set_zero(true);
    return response;
  }
  static v1::ChecksumsResponse Hashes(uint64_t offset, uint64_t length, size_t bytes) {
    v1::ChecksumsResponse response = Zero(offset, length);
    response.set_hashes(std::string(bytes, 'h'));
    return response;
  }
  absl::Status Say(std::vector<v1::ChecksumsResponse> answers) {
    service_.SetAnswers(std::move(answers));
    return FetchAll(source_, Grant{}, range_).status;
  }

  testing::TempDir directory_;
  const std::string address_ = absl::StrCat("unix:", directory_.path(), "/s.sock");
  ScriptedService service_;
  Server server_{address_, &service_};
  StandbyChecksums source_{address_, absl::Seconds(20)};
  const ByteRange range_ = {0, 2 * kMiB + 512};
};

TEST_F(ScriptedChecksumsTest, TakesAnswersThatCoverTheRange) {
  EXPECT_EQ(Say({Zero(0, range_.size())}), absl::OkStatus());
  EXPECT_EQ(
      Say({Hashes(0, kMiB, 4096), Zero(kMiB, 4096), Hashes(kMiB + 4096, kMiB + 512 - 4096, 4096)}),
      absl::OkStatus());
}

TEST_F(ScriptedChecksumsTest, RefusesAnswersThatDoNot) {
  v1::ChecksumsResponse nothing = Zero(0, 4096);
  nothing.clear_zero();
  const std::vector<std::vector<v1::ChecksumsResponse>> wrong = {
      {Zero(0, 4096)},                    // too little
      {},                                 // nothing at all
      {Zero(4096, 4096)},                 // a gap
      {Zero(0, 8192), Zero(4096, kMiB)},  // again
      {Zero(0, range_.size() + 512)},     // past the end
      {Zero(0, 0)},                       // no progress
      {Zero(0, 512), Zero(512, kMiB)},    // part of a block
      {Hashes(0, kMiB, 4095)},            // hashes missing
      {Hashes(0, kMiB, 4112)},            // too many
      {Hashes(0, 2 * kMiB, 8192)},        // more than a slice
      {nothing},
      {Zero(0, range_.size()), Zero(range_.size(), 512)},  // more than was asked for
  };
  for (const auto& answers : wrong) {
    const absl::Status status = Say(answers);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("group vm1: checksums of volume v0: "));
  }
}

TEST_F(ScriptedChecksumsTest, SilenceIsUnavailable) {
  service_.hangs = true;
  service_.SetAnswers({Zero(0, 4096)});
  StandbyChecksums hasty(address_, absl::Milliseconds(200));
  const absl::Status status = FetchAll(hasty, Grant{}, range_).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(ScriptedChecksumsTest, CancelEndsAFetchUnderWayAndLaterOnes) {
  StandbyChecksums patient(address_);
  service_.hangs = true;
  service_.SetAnswers({Zero(0, 4096)});
  absl::Status status;
  std::atomic<bool> began = false;
  std::thread fetch([&] {
    status = patient.Fetch("vm1", Grant{}, "v0", range_, [&](const ChecksumSlice&) {
      began = true;
      return absl::OkStatus();
    });
  });
  while (!began) std::this_thread::yield();
  patient.Cancel();
  fetch.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
  EXPECT_EQ(FetchAll(patient, Grant{}, range_).status.code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace understudy::client::standby_checksums_test
