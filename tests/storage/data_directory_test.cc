// What of a data directory may be lost, and what must come of it: a table of pieces, each removed, emptied, cut short, and replaced
// by that of an older copy. A start that is refused touches nothing, however often it is tried, and putting the piece back
// repairs everything. Damaged bytes: corruptor_test.cc.
#include "storage/data_directory.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/data_version.h"
#include "storage/index.h"
#include "tests/storage/corruptor.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::data_directory_test {
namespace {

using ::testing::HasSubstr;

constexpr char kRemoved[] = "removed";
constexpr char kEmptied[] = "emptied";
constexpr char kHalved[] = "cut to half";
constexpr char kOlder[] = "from an older copy";
constexpr char kOther[] = "from a copy that has lived on by itself";

// Where a piece lies in a data directory; "": that one has none.
using Piece = std::function<std::string(const std::string& dir)>;

struct Loss {
  std::string piece;
  Piece path;
  std::string how;
  Outcome outcome;    // kWhole, kIsolated or kRefused
  std::string named;  // part of the message
};

Piece At(const std::string& name) {
  return [=](const std::string& dir) { return absl::StrCat(dir, "/", name); };
}
Piece OfIndex(const std::string& part) {
  return [=](const std::string& dir) { return IndexFile(dir, part); };
}
std::string FirstSegmentOf(const std::string& dir) { return FirstSegment(dir); }
std::string SecondSegmentOf(const std::string& dir) {
  return Segments(dir, LogRole::kHidden).at(1).path;
}
std::string FreeSegment(const std::string& dir) { return dir + "/segments/00000000000000ff.seg"; }
std::string Marker(const std::string& dir) {
  return dir.substr(0, dir.rfind('/')) + "/disk0.img.understudy";
}

void Empty(const std::string& path) {
  if (!fs::is_directory(path)) return fs::resize_file(path, 0);
  for (const auto& entry : fs::directory_iterator(path)) fs::remove_all(entry);
}

void Damage(const Loss& loss, const std::string& dir, const std::string& older,
            const std::string& other) {
  const std::string path = loss.path(dir);
  ASSERT_TRUE(fs::exists(path)) << path;
  if (loss.how == kEmptied) return Empty(path);
  if (loss.how == kHalved) return fs::resize_file(path, fs::file_size(path) / 2);
  fs::remove_all(path);
  if (loss.how == kRemoved) return;
  fs::copy(loss.path(loss.how == kOlder ? older : other), path, fs::copy_options::recursive);
}

std::vector<Loss> OfTheStore() {
  using enum Outcome;

  return {{"VERSION", At("VERSION"), kRemoved, kRefused, "VERSION is missing"},
          {"VERSION", At("VERSION"), kEmptied, kRefused, "VERSION: damaged"},
          {"VERSION", At("VERSION"), kOlder, kWhole, ""},
          {"LOCK", At("LOCK"), kRemoved, kWhole, ""},
          {"SYNCED", At("SYNCED"), kRemoved, kWhole, ""},
          {"SYNCED", At("SYNCED"), kEmptied, kWhole, ""},
          {"SYNCED", At("SYNCED"), kOlder, kWhole, ""}};
}

std::vector<Loss> OfTheIndex() {
  using enum Outcome;
  return {{"index/", At("index"), kRemoved, kRefused, "/index is missing"},
          {"index/", At("index"), kEmptied, kRefused, "/index/CURRENT: No such file"},
          {"index/", At("index"), kOlder, kRefused, "older copy"},
          {"index/", At("index"), kOther, kIsolated, "another copy of the data directory"},
          {"CURRENT", OfIndex("CURRENT"), kRemoved, kRefused, "/index/CURRENT: No such file"},
          {"CURRENT", OfIndex("CURRENT"), kEmptied, kRefused, "CURRENT"},
          {"CURRENT", OfIndex("CURRENT"), kHalved, kRefused, "CURRENT"},
          {"CURRENT", OfIndex("CURRENT"), kOlder, kRefused, "MANIFEST-"},
          {"MANIFEST", OfIndex("MANIFEST"), kRemoved, kRefused, "MANIFEST-"},
          {"MANIFEST", OfIndex("MANIFEST"), kEmptied, kRefused, "/index is damaged"},
          {"MANIFEST", OfIndex("MANIFEST"), kHalved, kRefused, "/index is damaged"},
          {"MANIFEST", OfIndex("MANIFEST"), kOlder, kRefused, "/index is damaged"},
          {"write-ahead log", OfIndex(".log"), kRemoved, kRefused, "write-ahead log is missing"},
          {"write-ahead log", OfIndex(".log"), kEmptied, kRefused, "was synced up to"},
          {"write-ahead log", OfIndex(".log"), kHalved, kRefused, "was synced up to"},
          {"write-ahead log", OfIndex(".log"), kOlder, kRefused, "was synced up to"},
          {"table", OfIndex(".sst"), kRemoved, kRefused, ".sst"},
          {"table", OfIndex(".sst"), kEmptied, kRefused, ".sst"},
          {"table", OfIndex(".sst"), kHalved, kRefused, ".sst"},
          {"table", OfIndex(".sst"), kOlder, kRefused, ".sst"},
          {"IDENTITY", OfIndex("IDENTITY"), kRemoved, kWhole, ""},
          {"IDENTITY", OfIndex("IDENTITY"), kEmptied, kWhole, ""},
          {"OPTIONS", OfIndex("OPTIONS"), kRemoved, kWhole, ""},
          {"OPTIONS", OfIndex("OPTIONS"), kEmptied, kWhole, ""},
          {"index/LOCK", At("index/LOCK"), kRemoved, kWhole, ""}};
}

std::vector<Loss> OfTheRest() {
  using enum Outcome;
  return {{"segments/", At("segments"), kRemoved, kRefused, "/segments is missing"},
          {"segments/", At("segments"), kEmptied, kIsolated, "is missing"},
          {"segments/", At("segments"), kOlder, kIsolated, "is missing"},
          {"segments/", At("segments"), kOther, kIsolated, "another copy of the data directory"},
          {"segment", FirstSegmentOf, kRemoved, kIsolated, "segment 1 is missing"},
          {"segment", FirstSegmentOf, kEmptied, kIsolated, "segment 1 is missing"},
          {"segment", FirstSegmentOf, kOlder, kWhole, ""},
          {"segment", SecondSegmentOf, kOther, kIsolated, "another copy of the data directory"},
          {"free segment", FreeSegment, kRemoved, kWhole, ""},
          {"free segment", FreeSegment, kEmptied, kWhole, ""},
          {"marker beside a disk", Marker, kRemoved, kIsolated, "older copy"},
          {"marker beside a disk", Marker, kEmptied, kIsolated, "older copy"}};
}

// Every file's bytes and every directory, by path.
using Tree = std::map<std::string, std::string>;
Tree TreeOf(const std::string& dir) {
  Tree tree;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    tree[entry.path()] = entry.is_directory() ? "directory" : Slurp(entry.path());
  }
  return tree;
}
std::vector<std::string> Changed(const Tree& before, const Tree& after) {
  std::vector<std::string> changed;
  for (const auto& [path, bytes] : before) {
    const auto found = after.find(path);
    if (found == after.end() || found->second != bytes) changed.push_back(path);
  }
  for (const auto& [path, bytes] : after) {
    if (!before.contains(path)) changed.push_back(path);
  }
  return changed;
}

class DataDirectoryTest : public ::testing::Test {
 protected:
  const std::string& dir() { return f_.options().data_dir; }

  // A group with three committed epochs that stay in its overlays, and writes of the open one, copied as kill -9 leaves it; a copy
  // from before the second epoch, as a backup has it; and what became of that copy in another life.
  void Build() {
    f_.options().history_epochs = 8;
    f_.options().index_batch_delay = absl::Hours(1);
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    AddEpoch();
    ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    Keep(older_);
    const uint64_t next = f_.next_sequence();
    for (int i = 0; i < 8; ++i) AddEpoch();
    Keep(other_);
    f_.CloseStore();
    fs::remove_all(dir());
    fs::copy(older_, dir(), fs::copy_options::recursive);
    f_.set_next_sequence(next);
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    AddEpoch();
    ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    AddEpoch();
    ASSERT_EQ(f_.PrimaryWrite(0, 8192, f_.Bytes(4096)), absl::OkStatus());
    view_ = f_.View(0);
    Keep(image_);
    f_.CloseStore();
    std::ofstream(FreeSegment(image_)) << std::string(8192, '\0');
    marker_ = Slurp(Marker(dir()));
  }
  void AddEpoch() {
    const uint64_t stream = f_.replica().state().stream_id;
    ASSERT_EQ(f_.replica().AttachStream(stream, /*may_checkpoint=*/false), absl::OkStatus());
    ASSERT_EQ(f_.PrimaryWrite(0, 65536 * ++epochs_, f_.Bytes(32768)), absl::OkStatus());
    ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  }
  void Keep(const std::string& as) { fs::rename(f_.CopyDataDir(), as); }

  void Restore(const Loss& loss) {
    fs::remove_all(dir());
    fs::copy(image_, dir(), fs::copy_options::recursive);
    std::ofstream(Marker(dir()), std::ios::binary) << marker_;
    if (!loss.piece.empty()) Damage(loss, dir(), older_, other_);
  }
  // One of another copy must be put back together with SYNCED, which may have followed it.
  void PutBack(const Loss& loss) {
    if (loss.how == kOther) return Restore({});
    const std::string path = loss.path(dir());
    if (path == Marker(dir())) {
      std::ofstream(path, std::ios::binary) << marker_;
      return;
    }
    const std::string whole = loss.path(image_);
    const std::string place = absl::StrCat(dir(), whole.substr(image_.size()));
    fs::remove_all(place);
    fs::copy(whole, place, fs::copy_options::recursive);
  }

  absl::StatusOr<std::unique_ptr<Store>> Open() {
    return Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
  }
  void ExpectWhole() {
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.status();
    auto replica = (*store)->Find("vm1");
    ASSERT_TRUE(replica.ok()) << replica.status();
    std::string found(view_.size(), '?');
    EXPECT_EQ((*replica)->Read(VolumeId(0), 0, std::span(found.data(), found.size())),
              absl::OkStatus());
    EXPECT_TRUE(found == view_);
  }
  void ExpectRefused(const Loss& loss) {
    const Tree before = TreeOf(dir());
    for (int start = 1; start <= 3; ++start) {
      const absl::Status refused = Open().status();
      EXPECT_TRUE(absl::IsDataLoss(refused)) << "start " << start << ": " << refused;
      EXPECT_THAT(std::string(refused.message()), HasSubstr(loss.named));
      EXPECT_THAT(Changed(before, TreeOf(dir())), ::testing::IsEmpty()) << "start " << start;
    }
  }
  // The service is up; the group says what is missing and gives nothing of its own away.
  void ExpectIsolated(const Loss& loss) {
    const Tree before = TreeOf(dir() + "/segments");
    for (int start = 1; start <= 3; ++start) {
      auto store = Open();
      ASSERT_TRUE(store.ok()) << store.status();
      BackgroundErrors errors;
      Replica& replica = **(*store)->Find("vm1");
      replica.SetListener(&errors);
      const auto told = errors.Take();
      replica.SetListener(nullptr);
      ASSERT_FALSE(told.empty()) << "start " << start;
      EXPECT_TRUE(absl::IsDataLoss(told[0])) << told[0];
      EXPECT_THAT(std::string(told[0].message()), HasSubstr(loss.named));
      store->reset();
      EXPECT_THAT(Changed(before, TreeOf(dir() + "/segments")), ::testing::IsEmpty());
    }
  }

  void Check(const Loss& loss) {
    SCOPED_TRACE(absl::StrCat(loss.piece, " ", loss.how));
    Restore(loss);
    if (loss.outcome == Outcome::kRefused) ExpectRefused(loss);
    if (loss.outcome == Outcome::kIsolated) ExpectIsolated(loss);
    if (loss.outcome != Outcome::kWhole) PutBack(loss);
    const int starts = loss.outcome == Outcome::kWhole ? 3 : 1;
    for (int start = 1; start <= starts; ++start) ExpectWhole();
  }

  StoreFixture f_{19};
  const std::string older_ = f_.directory() + "/older";
  const std::string other_ = f_.directory() + "/other";
  const std::string image_ = f_.directory() + "/image";
  std::string marker_;
  std::string view_;
  uint64_t epochs_ = 0;
};

TEST_F(DataDirectoryTest, WhateverIsLostIsToldAtEveryStartAndNothingIsTouched) {
  Build();
  ASSERT_FALSE(HasFatalFailure());
  for (const auto& list : {OfTheStore(), OfTheIndex(), OfTheRest()}) {
    for (const Loss& loss : list) Check(loss);
  }
}

// Method: what the first start has done by then, step by step.
TEST_F(DataDirectoryTest, AFirstStartThatWasInterruptedBeginsAnew) {
  f_.options().data_dir = f_.directory() + "/new";
  const auto unfinished = [&] {
    std::ofstream(dir() + "/VERSION") << DataVersion::Unfinished().ToString();
  };
  const std::vector<std::function<void()>> steps = {
      [&] { fs::create_directory(dir()); },
      [&] { std::ofstream(dir() + "/LOCK"); },
      [&] { std::ofstream(dir() + "/VERSION.tmp") << "understu"; },
      unfinished,
      [&] { fs::create_directory(dir() + "/index"); },
      [&] { fs::create_directory(dir() + "/segments"); },
      [&] { std::ofstream(dir() + "/index/MANIFEST-000001") << "torn"; },
      [&] { std::ofstream(dir() + "/index/CURRENT") << "MANIFEST-000001\n"; },
      [&] {
        fs::remove_all(dir() + "/index");
        ASSERT_EQ(Index::Create(dir() + "/index"), absl::OkStatus());
      }};
  for (size_t done = 1; done <= steps.size(); ++done) {
    SCOPED_TRACE(done);
    fs::remove_all(dir());
    for (size_t step = 0; step < done; ++step) steps[step]();
    for (int start = 1; start <= 2; ++start) {
      const auto store = Open();
      ASSERT_TRUE(store.ok()) << store.status();
    }
    EXPECT_EQ(Slurp(dir() + "/VERSION"), "understudy 1\n");
  }
}

// The VERSION of an interrupted first start must not make a store that is in use begin anew.
TEST_F(DataDirectoryTest, AnUnfinishedVersionBesideWhatOnlyAStoreMakesIsRefused) {
  Build();
  ASSERT_FALSE(HasFatalFailure());
  Restore({});
  std::ofstream(dir() + "/VERSION") << DataVersion::Unfinished().ToString();
  ExpectRefused({.named = "VERSION is missing (this one is of a first start"});
}

TEST_F(DataDirectoryTest, AMountPointAndThePreparedPlaceOfDisksAreNew) {
  f_.options().data_dir = f_.directory() + "/mounted";
  for (const char* const name : {"lost+found", "disks", "segments/lost+found"}) {
    fs::create_directories(absl::StrCat(dir(), "/", name));
  }
  std::ofstream(dir() + "/disks/v.img") << "a disk";
  const auto store = Open();
  EXPECT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(Slurp(dir() + "/disks/v.img"), "a disk");
}

}  // namespace
}  // namespace understudy::storage::data_directory_test
