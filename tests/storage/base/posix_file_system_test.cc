#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <limits.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/file_system.h"
#include "tests/testing/temp_dir.h"

namespace understudy::base::posix_file_system_test {
namespace {

class PosixFileSystemTest : public ::testing::Test {
 protected:
  std::unique_ptr<File> Open(const std::string& name,
                             const OpenOptions& options = {.create = true}) {
    absl::StatusOr<std::unique_ptr<File>> file = fs_.Open(dir_.File(name), options);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  std::string Contents(const std::string& name) {
    return fs_.ReadWholeFile(dir_.File(name)).value_or("unreadable");
  }

  testing::TempDir dir_;
  FileSystem& fs_ = FileSystem::Posix();
};

TEST_F(PosixFileSystemTest, PiecesAreWrittenBackToBackAlsoBeyondOneSystemCall) {
  std::vector<std::string> pieces;
  std::vector<iovec> vector;
  std::string expected(3, '\0');
  for (int i = 0; i < IOV_MAX + 100; ++i) pieces.push_back(std::to_string(i));
  for (std::string& piece : pieces) {
    vector.push_back({.iov_base = piece.data(), .iov_len = piece.size()});
    expected += piece;
  }
  const auto file = Open("f");
  ASSERT_TRUE(file->Write(3, std::span<const iovec>(vector)).ok());
  EXPECT_EQ(Contents("f"), expected);
}

TEST_F(PosixFileSystemTest, ReadingPastTheEndIsOutOfRange) {
  const auto file = Open("f");
  ASSERT_TRUE(file->Write(0, "abc").ok());
  std::string out(4, '\0');
  EXPECT_EQ(file->Read(0, out).code(), absl::StatusCode::kOutOfRange);
  out.resize(3);
  EXPECT_TRUE(file->Read(0, out).ok());
  EXPECT_EQ(out, "abc");
}

TEST_F(PosixFileSystemTest, APunchedHoleReadsZeroesAndGivesItsSpaceBack) {
  const auto file = Open("f");
  const std::string data(1 << 20, 'x');
  ASSERT_TRUE(file->Write(0, data).ok());
  ASSERT_TRUE(file->Sync().ok());
  const uint64_t before = *file->AllocatedBytes();
  ASSERT_TRUE(file->PunchHole({64 << 10, 512 << 10}).ok());
  std::string expected = data;
  expected.replace(64 << 10, (512 - 64) << 10, (512 - 64) << 10, '\0');
  EXPECT_TRUE(Contents("f") == expected);
  EXPECT_LT(*file->AllocatedBytes(), before);
  EXPECT_EQ(*file->Size(), data.size());
}

// On whatever the temporary files lie on, and on tmpfs, which can punch holes and nothing else.
TEST_F(PosixFileSystemTest, AZeroedRangeReadsZeroesAndHasItsSpace) {
  const testing::TempDir memory(std::filesystem::exists("/dev/shm") ? "/dev/shm" : dir_.path());
  for (const std::string& path : {dir_.File("f"), memory.File("f")}) {
    SCOPED_TRACE(path);
    const auto file = *fs_.Open(path, {.create = true});
    ASSERT_TRUE(file->Truncate(2 << 20).ok());
    ASSERT_TRUE(file->Write(0, std::string(1 << 20, 'x')).ok());
    ASSERT_TRUE(file->Sync().ok());
    ASSERT_TRUE(file->ZeroRange({512, (2 << 20) - 512}).ok());
    ASSERT_TRUE(file->Sync().ok());
    std::string expected(2 << 20, '\0');
    expected.replace(0, 512, 512, 'x');
    EXPECT_TRUE(fs_.ReadWholeFile(path).value_or("unreadable") == expected);
    EXPECT_GE(*file->AllocatedBytes(), 2u << 20);
    EXPECT_EQ(*file->Size(), 2u << 20);
    ASSERT_TRUE(file->Zero({0, 1 << 20}, ZeroedSpace::kGivenBack).ok());
    EXPECT_LT(*file->AllocatedBytes(), 3u << 19);
    ASSERT_TRUE(file->Zero({0, 1 << 20}, ZeroedSpace::kKept).ok());
    EXPECT_GE(*file->AllocatedBytes(), 2u << 20);
  }
}

TEST_F(PosixFileSystemTest, ACloneHasTheBytesOrChangesNothing) {
  const auto source = Open("source");
  const auto target = Open("target");
  const std::string data(64 << 10, 's');
  const std::string before(64 << 10, 't');
  ASSERT_TRUE(source->Write(0, data).ok());
  ASSERT_TRUE(target->Write(0, before).ok());
  const absl::Status cloned = target->CloneFrom(*source, 4096, 8192, 32 << 10);
  std::string expected = before;
  if (cloned.ok()) {
    expected.replace(8192, 32 << 10, 32 << 10, 's');
  } else {
    EXPECT_EQ(cloned.code(), absl::StatusCode::kUnimplemented) << cloned;
  }
  EXPECT_TRUE(Contents("target") == expected);
  // Not on block boundaries: nowhere.
  EXPECT_EQ(target->CloneFrom(*source, 512, 1024, 512).code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(Contents("target") == expected);
}

TEST_F(PosixFileSystemTest, WritingBackChangesNothing) {
  const auto file = Open("f");
  const std::string data(1 << 20, 'x');
  ASSERT_TRUE(file->Write(0, data).ok());
  EXPECT_TRUE(file->WriteBack({0, 1 << 19}, /*wait=*/false).ok());
  EXPECT_TRUE(file->WriteBack({0, 1 << 20}, /*wait=*/true).ok());
  EXPECT_TRUE(Contents("f") == data);
}

TEST_F(PosixFileSystemTest, NextDataFindsTheRunsBetweenHoles) {
  const auto file = Open("f");
  ASSERT_TRUE(file->Truncate(4 << 20).ok());
  EXPECT_TRUE(file->NextData(0)->empty());
  EXPECT_EQ(*file->NextDataStart(0), *file->Size());
  ASSERT_TRUE(file->Write(1 << 20, std::string(4096, 'x')).ok());
  EXPECT_EQ(*file->NextData(0), (ByteRange{1 << 20, (1 << 20) + 4096}));
  EXPECT_EQ(*file->NextDataStart(0), 1u << 20);
  EXPECT_EQ(*file->NextDataStart((1 << 20) + 512), (1u << 20) + 512);
  EXPECT_TRUE(file->NextData((1 << 20) + 4096)->empty());
  EXPECT_TRUE(file->NextData(5 << 20)->empty());
}

// SEEK_DATA and SEEK_HOLE are two calls. Whoever trims between them must not make what follows look
// like a hole, which a backup would leave out.
TEST_F(PosixFileSystemTest, DataIsFoundBehindWhatIsPunchedMeanwhile) {
  const auto file = Open("f");
  ASSERT_TRUE(file->Truncate(4 << 20).ok());
  ASSERT_TRUE(file->Write(3 << 20, std::string(4096, 'x')).ok());
  std::atomic<bool> ending{false};
  std::thread trimmer([&] {
    const std::string data(4096, 'y');
    while (!ending) {
      EXPECT_TRUE(file->Write(0, data).ok());
      EXPECT_TRUE(file->PunchHole({0, 4096}).ok());
    }
  });
  for (int i = 0; i < 50'000; ++i) {
    const ByteRange found = *file->NextData(0);
    if (found.empty() || found.start > 3 << 20) {
      ADD_FAILURE() << "round " << i << ": [" << found.start << ", " << found.end << ")";
      break;
    }
  }
  ending = true;
  trimmer.join();
}

TEST_F(PosixFileSystemTest, ALockedFileIsRefusedToTheNextLockerUntilItIsClosed) {
  auto first = Open("f", {.create = true, .lock = true});
  const auto second = fs_.Open(dir_.File("f"), {.lock = true});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(second.status().message()).find(dir_.File("f")), std::string::npos);
  EXPECT_TRUE(fs_.Open(dir_.File("f"), {}).ok());  // without the lock anybody may
  first.reset();
  EXPECT_TRUE(fs_.Open(dir_.File("f"), {.lock = true}).ok());
}

TEST_F(PosixFileSystemTest, ErrorsCarryTheCodeTheErrnoAndThePath) {
  const absl::Status missing = fs_.Open(dir_.File("gone"), {}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrnoOf(missing), ENOENT);
  EXPECT_NE(std::string(missing.message()).find(dir_.File("gone")), std::string::npos);
  Open("f");
  EXPECT_EQ(fs_.Open(dir_.File("f"), {.create = true, .exclusive = true}).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ErrnoStatus(ENOSPC, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EACCES, "x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoOf(absl::InternalError("not of an errno")), EIO);
  EXPECT_EQ(ErrnoOf(absl::OkStatus()), 0);
}

TEST_F(PosixFileSystemTest, AWriteToAFullDeviceIsResourceExhausted) {
  const auto full = fs_.Open("/dev/full", {});
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(ErrnoOf((*full)->Write(0, "x")), ENOSPC);
}

TEST_F(PosixFileSystemTest, AtomicWriteReplacesLongerContentsAndLeavesNoTemporary) {
  ASSERT_TRUE(fs_.WriteFileAtomically(dir_.File("f"), "a longer text").ok());
  // What a crash left behind does not shine through.
  std::ofstream(dir_.File("f.tmp")) << "remains of an older, much longer attempt";
  ASSERT_TRUE(fs_.WriteFileAtomically(dir_.File("f"), "new").ok());
  EXPECT_EQ(Contents("f"), "new");
  EXPECT_EQ(*fs_.List(dir_.path()), std::vector<std::string>{"f"});
}

TEST_F(PosixFileSystemTest, AFailedAtomicWriteLeavesTheOldFile) {
  ASSERT_TRUE(fs_.WriteFileAtomically(dir_.File("f"), "old").ok());
  std::filesystem::create_directory(dir_.File("f.tmp"));  // the temporary cannot be opened
  EXPECT_FALSE(fs_.WriteFileAtomically(dir_.File("f"), "new").ok());
  EXPECT_EQ(Contents("f"), "old");
}

TEST_F(PosixFileSystemTest, DirectoriesAreMadeWithTheirParentsAndListedInOrder) {
  ASSERT_TRUE(fs_.CreateDirectory(dir_.File("a/b/c")).ok());
  EXPECT_TRUE(fs_.CreateDirectory(dir_.File("a/b/c")).ok());
  Open("a/b/z");
  EXPECT_EQ(*fs_.List(dir_.File("a/b")), (std::vector<std::string>{"c", "z"}));
  EXPECT_FALSE(fs_.CreateDirectory(dir_.File("a/b/z")).ok());  // a file is in the way
}

TEST_F(PosixFileSystemTest, ResolveFollowsLinks) {
  Open("f");
  std::filesystem::create_symlink(dir_.File("f"), dir_.File("link"));
  EXPECT_EQ(*fs_.Resolve(dir_.File("link")), *fs_.Resolve(dir_.File("f")));
  EXPECT_EQ(fs_.Resolve(dir_.File("gone")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PosixFileSystemTest, IdentityStaysOverReopenAndRenameAndDiffersBetweenFiles) {
  const FileIdentity before = *Open("f")->Identity();
  ASSERT_TRUE(fs_.Rename(dir_.File("f"), dir_.File("g")).ok());
  EXPECT_EQ(*Open("g")->Identity(), before);
  EXPECT_NE(*Open("other")->Identity(), before);
}

// Where the file system can tell: an inode number is soon used again.
TEST_F(PosixFileSystemTest, ANewFileUnderAnOldInodeNumberIsOfAnotherGeneration) {
  const FileIdentity before = *Open("f")->Identity();
  if (before.generation == 0) {
    GTEST_SKIP()
        << "the file system of TMPDIR tells no generation of an inode, as tmpfs: let it be "
           "on ext4, XFS or btrfs";
  }
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(fs_.Remove(dir_.File("f")).ok());
    const FileIdentity next = *Open("f")->Identity();
    EXPECT_TRUE(next != before || next.generation != before.generation);
  }
}

TEST_F(PosixFileSystemTest, SpaceIsThatOfTheFileSystem) {
  const auto space = fs_.Space(dir_.path());
  ASSERT_TRUE(space.ok());
  EXPECT_GT(space->capacity_bytes, 0u);
  EXPECT_LE(space->free_bytes, space->capacity_bytes);
}

}  // namespace
}  // namespace understudy::base::posix_file_system_test
