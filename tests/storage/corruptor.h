// tests/storage/corruptor.h
//
// How to damage a data directory: bits of its files, records of its index. The group that is damaged is vm1, the first one; what
// lies where: CorruptorTest::Build().
#ifndef UNDERSTUDY_TESTS_STORAGE_CORRUPTOR_H_
#define UNDERSTUDY_TESTS_STORAGE_CORRUPTOR_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include "storage/base/file_system.h"
#include "storage/format.h"
#include "storage/segment_pool.h"

namespace understudy::storage {

namespace fs = std::filesystem;

inline constexpr uint64_t kVolumeBytes = 1 << 20;
inline constexpr uint64_t kBlock = 4096;

enum class Outcome {
  kWhole,     // nothing depends on it, or it is made anew
  kCut,       // the log ends there: the primary sends what is missing again
  kRange,     // some of vm1 is not served, the rest is; a scrub names it
  kVolume,    // the same, but how much is damaged cannot be told: nothing of the volume is served
  kStray,     // nothing reads it; a scrub names it
  kHidden,    // vm1 serves and can fail over; the primary's writes are refused
  kIsolated,  // vm1 is there, says why and serves nothing
  kRefused    // the directory is not opened
};

struct Corruption {
  std::string structure;
  std::function<void(const std::string& data_dir)> damage;
  Outcome outcome;
  std::string named;  // part of the message
};

inline std::string Slurp(const std::string& path) {
  return base::FileSystem::Posix().ReadWholeFile(path).value_or("");
}

inline void Flip(const std::string& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const int byte = file.get();
  ASSERT_NE(byte, EOF) << path << " at " << offset;
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(static_cast<char>(byte ^ 0x41));
}

// vm1 is the first group of the directory: its number is the lowest. Its segments by ordinal.
inline std::vector<SegmentFile> Segments(const std::string& data_dir, LogRole role) {
  auto files = *ListSegmentFiles(base::FileSystem::Posix(), data_dir + "/segments");
  std::erase_if(
      files, [](const SegmentFile& file) { return file.content == SegmentFile::Content::kBlank; });
  uint64_t number = ~0ULL;
  for (const SegmentFile& file : files) number = std::min(number, file.header.group);
  std::erase_if(files, [&](const SegmentFile& file) {
    return file.header.group != number || file.header.role != static_cast<uint8_t>(role);
  });
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.header.ordinal < b.header.ordinal; });
  return files;
}
inline std::string FirstSegment(const std::string& data_dir) {
  return Segments(data_dir, LogRole::kHidden).front().path;
}

struct FrameAt {
  uint64_t offset = 0;
  FrameHeader header;
};
inline std::vector<FrameAt> Frames(const std::string& path) {
  const std::string bytes = Slurp(path);
  std::vector<FrameAt> frames;
  for (uint64_t at = kBlock; at + sizeof(FrameHeader) <= bytes.size();) {
    FrameAt frame{.offset = at};
    std::memcpy(&frame.header, bytes.data() + at, sizeof(FrameHeader));
    if (frame.header.magic != kFrameMagic) break;
    frames.push_back(frame);
    at += FrameBytes(frame.header);
  }
  return frames;
}

inline std::function<void(const std::string&)> InSegmentHeader(uint64_t offset) {
  return [=](const std::string& dir) { Flip(FirstSegment(dir), offset); };
}

// The hidden log of vm1: in its first segment epoch 1, its marker and the open epoch as indexed; in its last one two frames that
// the index does not know.
inline constexpr size_t kCommittedFrame = 0;
inline constexpr size_t kFirstUnindexed = 3;
enum class Part { kHeader, kOperations, kChecksums, kPayload };
inline std::function<void(const std::string&)> InFrame(size_t index, Part part, uint64_t offset) {
  return [=](const std::string& dir) {
    const bool indexed = index < kFirstUnindexed;
    const auto segments = Segments(dir, LogRole::kHidden);
    const std::string path = indexed ? segments.front().path : segments.back().path;
    const FrameAt frame = Frames(path).at(indexed ? index : index - kFirstUnindexed);
    uint64_t at = frame.offset;
    const uint64_t operations = frame.header.operation_count * kOperationBytes;
    if (part >= Part::kOperations) at += sizeof(FrameHeader);
    if (part == Part::kChecksums) at += operations;
    if (part == Part::kPayload) {
      at = frame.offset + RoundUp(FrameMetadataBytes(frame.header), kBlock);
    }
    Flip(path, at + offset);
  };
}

// The records of the index, by column family and key.
using Records = std::map<std::string, std::string>;
class RawIndex {
 public:
  explicit RawIndex(const std::string& data_dir) {
    rocksdb::ColumnFamilyOptions options;
    options.disable_auto_compactions = true;
    const std::vector<rocksdb::ColumnFamilyDescriptor> families = {{"default", options},
                                                                   {"extents", options}};
    rocksdb::DB* db = nullptr;
    const auto opened =
        rocksdb::DB::Open(rocksdb::DBOptions(), data_dir + "/index", families, &handles_, &db);
    EXPECT_TRUE(opened.ok()) << opened.ToString();
    db_.reset(db);
  }
  ~RawIndex() {
    for (auto* handle : handles_) db_->DestroyColumnFamilyHandle(handle);
  }
  Records All(size_t family, const std::string& prefix = "") {
    Records records;
    const std::unique_ptr<rocksdb::Iterator> it(
        db_->NewIterator(rocksdb::ReadOptions(), handles_[family]));
    for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
      records[it->key().ToString()] = it->value().ToString();
    }
    return records;
  }
  void Put(size_t family, const std::string& key, const std::string& value) {
    EXPECT_TRUE(db_->Put({}, handles_[family], key, value).ok());
  }
  void Delete(size_t family, const std::string& key) {
    EXPECT_TRUE(db_->Delete({}, handles_[family], key).ok());
  }
  GroupRecord Vm1() { return *DecodeGroupRecord(All(0, "gvm1").at("gvm1")); }
  // The path of the newest table file that has keys of this family and begins at `overlay` (0: any).
  std::string TableOf(const std::string& family, OverlayId overlay) {
    std::vector<rocksdb::LiveFileMetaData> files;
    db_->GetLiveFilesMetaData(&files);
    for (const auto& file : files) {
      const bool begins =
          overlay == OverlayId() || absl::StartsWith(file.smallestkey, EncodeExtentPrefix(overlay));
      if (file.column_family_name == family && begins) return file.db_path + file.name;
    }
    return "";
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
};

using KeyOf = std::function<std::string(RawIndex&)>;
inline std::string IdKey(char prefix, uint64_t id) {
  return std::string(1, prefix) + EncodeExtentPrefix(OverlayId(id));
}
inline std::string GroupKey(RawIndex&) { return "gvm1"; }
inline std::string HiddenKey(RawIndex& index) { return IdKey('o', index.Vm1().hidden.value()); }
inline std::string ActiveKey(RawIndex& index) { return IdKey('o', index.Vm1().active.value()); }
// Committed overlays have the lowest ids of the group.
inline OverlayId Committed(RawIndex& index) {
  for (const auto& [key, value] : index.All(0, "o")) {
    const OverlayRecord record = *DecodeOverlayRecord(value);
    if (record.group == index.Vm1().number && record.state == OverlayState::kCommitted) {
      return DecodeExtentKey(key.substr(1) + std::string(12, '\0'))->overlay;
    }
  }
  return {};
}
inline std::string CommittedKey(RawIndex& index) { return IdKey('o', Committed(index).value()); }
inline KeyOf PositionKey(LogRole role) {
  return
      [role](RawIndex& index) { return IdKey('p', index.Vm1().number) + static_cast<char>(role); };
}
inline std::string ExtentOfCommitted(RawIndex& index) {
  return index.All(1, EncodeExtentPrefix(Committed(index))).begin()->first;
}
inline std::string ExtentOfHidden(RawIndex& index) {
  return index.All(1, EncodeExtentPrefix(index.Vm1().hidden)).begin()->first;
}

using Change = std::function<std::string(std::string)>;
inline std::string Shortened(std::string value) { return value.substr(0, value.size() - 1); }
inline std::string OtherVersion(std::string value) {
  value[0] = 9;
  return value;
}
// As if the write-ahead log of the index had lost a takeover.
inline std::string OlderTerm(std::string value) {
  GroupRecord record = *DecodeGroupRecord(value);
  record.term = Term(record.term.value() - 1);
  return Encode(record);
}
inline std::string PastTheVolume(std::string value) {
  Extent extent = *DecodeExtent(value);
  extent.start = extent.origin_start = kVolumeBytes;
  return Encode(extent);
}
inline std::string OtherSegment(std::string value) {
  Extent extent = *DecodeExtent(value);
  extent.segment += 77;
  return Encode(extent);
}
inline std::function<void(const std::string&)> InRecord(size_t family, const KeyOf& key_of,
                                                        const Change& change) {
  return [=](const std::string& dir) {
    RawIndex index(dir);
    const std::string key = key_of(index);
    index.Put(family, key, change(index.All(family, key).at(key)));
  };
}
inline std::function<void(const std::string&)> WithoutRecord(size_t family, const KeyOf& key_of) {
  return [=](const std::string& dir) {
    RawIndex index(dir);
    index.Delete(family, key_of(index));
  };
}

// The largest file of index/ with this beginning or end of its name.
inline std::string IndexFile(const std::string& dir, const std::string& part) {
  std::string largest;
  for (const auto& entry : fs::directory_iterator(dir + "/index")) {
    const std::string name = entry.path().filename().string();
    if (!absl::StartsWith(name, part) && !absl::EndsWith(name, part)) continue;
    if (largest.empty() || fs::file_size(largest) < entry.file_size()) largest = entry.path();
  }
  return largest;
}
inline std::function<void(const std::string&)> InIndexFile(const std::string& part, double where) {
  return [=](const std::string& dir) {
    const std::string path = IndexFile(dir, part);
    Flip(path, static_cast<uint64_t>(where * static_cast<double>(fs::file_size(path))));
  };
}
inline std::function<void(const std::string&)> InTable(const std::string& family) {
  return [=](const std::string& dir) {
    std::string path;
    {
      RawIndex index(dir);
      path = index.TableOf(family, family == "extents" ? Committed(index) : OverlayId());
    }
    Flip(path, 20);
  };
}

}  // namespace understudy::storage

#endif  // UNDERSTUDY_TESTS_STORAGE_CORRUPTOR_H_
