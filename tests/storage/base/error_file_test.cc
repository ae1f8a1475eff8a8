#include "storage/base/error_file.h"

#include <atomic>
#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/temp_dir.h"

namespace understudy::base::error_file_test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

LatchedError OneError() {
  return {.volume = "vda",
          .operation = "write",
          .code = absl::StatusCode::kResourceExhausted,
          .message = "file \"a\tb\":\nNo space left on device \\ \x01",
          .reason = "INCOMPLETE",
          .range = {4096, 8192},
          .first = absl::FromUnixMicros(1'000'001),
          .last = absl::FromUnixMicros(2'000'002),
          .count = 3,
          .bytes = 12288};
}

// An owner of errors as Group and client::ErrorLog are: the snapshot takes its lock.
class ErrorFileTest : public ::testing::Test {
 protected:
  ErrorFileTest() { Open(); }
  ~ErrorFileTest() override { file_->Close(); }

  void Open() {
    if (file_ != nullptr) file_->Close();
    file_ = ErrorFile::Create(files_, path_, pool_, "vm1");
    file_->Follow([this] {
      const MutexLock lock(mutex_);
      ++snapshots_;
      return KeptErrors{.era = "run 1", .errors = log_.errors()};
    });
  }
  void Latch(ByteRange range) {
    const MutexLock lock(mutex_);
    log_.Latch("vda", "write", range, absl::ResourceExhaustedError("full"), absl::Now());
    file_->Changed();
  }
  bool Exists() { return FileSystem::Posix().Exists(path_); }

  testing::TempDir dir_;
  testing::FaultFileSystem files_;
  const std::string path_ = dir_.path() + "/errors/vm1.errors";
  Mutex mutex_;
  ErrorLog log_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> snapshots_{0};
  WorkerPool pool_{"errors", 1};
  std::shared_ptr<ErrorFile> file_;
};

TEST_F(ErrorFileTest, EveryFieldComesBackWhateverBytesAMessageHas) {
  const KeptErrors kept = {.era = "a\nb", .errors = {OneError(), OneError()}};
  const absl::StatusOr<KeptErrors> found = DecodeErrors(EncodeErrors(kept));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->era, kept.era);
  ASSERT_THAT(found->errors, SizeIs(2));
  const LatchedError& error = found->errors[1];
  const LatchedError expected = OneError();
  EXPECT_EQ(error.volume, expected.volume);
  EXPECT_EQ(error.operation, expected.operation);
  EXPECT_EQ(error.code, expected.code);
  EXPECT_EQ(error.message, expected.message);
  EXPECT_EQ(error.reason, expected.reason);
  EXPECT_EQ(error.range, expected.range);
  EXPECT_EQ(error.first, expected.first);
  EXPECT_EQ(error.last, expected.last);
  EXPECT_EQ(error.count, 3u);
  EXPECT_EQ(error.bytes, 12288u);
}

// As docs/on_disk_format.md shows it.
TEST_F(ErrorFileTest, TheTextIsTheDocumentedOne) {
  const KeptErrors kept = {.era = "0102030405060708090a0b0c0d0e0f10",
                           .errors = {{.volume = "vda",
                                       .operation = "write",
                                       .code = absl::StatusCode::kResourceExhausted,
                                       .message = "the overlays are full",
                                       .range = {4096, 8192},
                                       .first = absl::FromUnixSeconds(1'700'000'000),
                                       .last = absl::FromUnixSeconds(1'700'000'009),
                                       .count = 3,
                                       .bytes = 12288}}};
  EXPECT_EQ(EncodeErrors(kept),
            "understudy errors 1\n"
            "era 0102030405060708090a0b0c0d0e0f10\n"
            "error vda\twrite\t8\t\t4096\t4096\t1700000000000000\t1700000009000000\t3\t12288\t"
            "the overlays are full\n"
            "crc32c 4d0569d2\n");
}

TEST_F(ErrorFileTest, NoByteCanChangeOrGoUnnoticed) {
  const std::string text = EncodeErrors({.era = "run 1", .errors = {OneError()}});
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 4);
    EXPECT_FALSE(DecodeErrors(changed).ok()) << "byte " << i;
    EXPECT_FALSE(DecodeErrors(text.substr(0, i)).ok()) << "cut at " << i;
  }
}

TEST_F(ErrorFileTest, AChangeIsInTheFileSoonAndManyTakeOneWrite) {
  for (uint64_t i = 0; i < 1000; ++i) Latch({i * 512, i * 512 + 512});
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  KeptErrors kept;
  do {
    absl::SleepFor(absl::Milliseconds(5));
    if (Exists()) kept = file_->Load();
  } while ((kept.errors.empty() || kept.errors[0].count < 1000) && absl::Now() < deadline);
  EXPECT_EQ(kept.era, "run 1");
  ASSERT_THAT(kept.errors, SizeIs(1));
  EXPECT_EQ(kept.errors[0].count, 1000u);
  EXPECT_EQ(kept.errors[0].bytes, 512'000u);
  EXPECT_LE(snapshots_, 2);
}

TEST_F(ErrorFileTest, StoreWritesAtOnceAndWithoutErrorsThereIsNoFile) {
  ASSERT_TRUE(file_->Store().ok());
  EXPECT_EQ(snapshots_, 0) << "nothing has changed";
  Latch({0, 512});
  ASSERT_TRUE(file_->Store().ok());
  EXPECT_THAT(file_->Load().errors, SizeIs(1));
  {
    const MutexLock lock(mutex_);
    log_.ClearBefore(log_.Mark());
  }
  file_->Changed();
  ASSERT_TRUE(file_->Store().ok());
  EXPECT_FALSE(Exists());
  EXPECT_THAT(file_->Load().errors, IsEmpty());
}

TEST_F(ErrorFileTest, ADamagedFileReadsAsNoErrors) {
  Latch({0, 512});
  ASSERT_TRUE(file_->Store().ok());
  std::ofstream(path_, std::ios::app) << "x";
  EXPECT_THAT(file_->Load().errors, IsEmpty());
  Latch({0, 512});
  ASSERT_TRUE(file_->Store().ok());
  EXPECT_THAT(file_->Load().errors, SizeIs(1)) << "and is replaced by the next store";
}

TEST_F(ErrorFileTest, WhatCouldNotBeStoredIsKeptForTheNextTry) {
  std::ofstream(dir_.path() + "/errors") << "a file where the directory should be";
  Latch({0, 512});
  EXPECT_FALSE(file_->Store().ok());
  ASSERT_TRUE(FileSystem::Posix().Remove(dir_.path() + "/errors").ok());
  ASSERT_TRUE(file_->Store().ok());
  EXPECT_THAT(file_->Load().errors, SizeIs(1));
}

// A removal that was not synced may come back with a power cut: it is not stored before it was.
TEST_F(ErrorFileTest, ARemovalThatWasNotSyncedIsTriedAgain) {
  Latch({0, 512});
  ASSERT_TRUE(file_->Store().ok());
  {
    const MutexLock lock(mutex_);
    log_.ClearBefore(log_.Mark());
  }
  file_->Changed();
  files_.SetHook([](testing::FileOperation operation, const std::string& path) {
    return operation == testing::FileOperation::kSyncDirectory ? ErrnoStatus(EIO, path)
                                                               : absl::OkStatus();
  });
  EXPECT_FALSE(file_->Store().ok());
  EXPECT_FALSE(Exists());
  EXPECT_FALSE(file_->Store().ok());
  files_.SetHook(nullptr);
  EXPECT_TRUE(file_->Store().ok());
}

TEST_F(ErrorFileTest, AfterCloseNothingIsStoredAndTheOwnerMayGo) {
  Latch({0, 512});
  file_->Close();
  EXPECT_TRUE(file_->Store().ok());
  EXPECT_FALSE(Exists());
}

}  // namespace
}  // namespace understudy::base::error_file_test
