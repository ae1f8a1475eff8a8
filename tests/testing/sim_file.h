// tests/testing/sim_file.h
//
// SimFile is one file of a SimDisk twice over: as its process sees it (the page cache) and as it is
// on the medium, with the changes between the two in the order they were made. Contents are sparse
// pages of 4 KiB; copies share them, and the list of them, until they change.
//
// Power cut    each unsynced change is kept, lost or torn: of a torn write every 512-byte sector is kept or lost by itself, so
//              that any later or earlier version of a sector may be what is found. How much of one file survives has
//              nothing to do with how much of another does.
// Failed sync  what was unsynced is on the medium or not, as after a power cut, and counts as clean from then on: a later sync
//              says OK and brings none of it back.
// Clone        is a change of the destination like a write, but a power cut keeps or loses it by blocks of 4 KiB, and its own sync
//              brings no data to the medium: what the source had not synced then reads after a power cut, per sector, as the
//              medium had it at the source, until the source has been synced. Linux writes the source back first; a
//              file system need not.
#ifndef UNDERSTUDY_TESTS_TESTING_SIM_FILE_H_
#define UNDERSTUDY_TESTS_TESTING_SIM_FILE_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "storage/base/byte_range.h"
#include "tests/testing/seed.h"

namespace understudy::testing {

inline constexpr uint64_t kSimPageBytes = 4096;

class SimContents {
 public:
  uint64_t size() const { return size_; }
  uint64_t allocated_bytes() const { return pages_->size() * kSimPageBytes; }
  // Pages that a write to `range` would add.
  uint64_t MissingPages(ByteRange range) const;

  // REQUIRES: inside the file.
  void Read(uint64_t offset, std::span<char> out) const;
  void Write(uint64_t offset, absl::string_view data);  // the file grows when it ends past its end
  void Zero(ByteRange range);                           // whole pages become holes
  void Resize(uint64_t size);
  // The first run of pages at or after `offset`, cut to the file; empty at its end when there is none.
  ByteRange NextData(uint64_t offset) const;
  // Takes over what `other` has in `range`.
  void CopyPages(const SimContents& other, ByteRange range);

 private:
  using Page = std::array<char, kSimPageBytes>;
  using Pages =
      std::map<uint64_t, std::shared_ptr<Page>>;  // by offset / kSimPageBytes; absent: a hole
  Pages& MutablePages();
  Page& MutablePage(uint64_t index);

  std::shared_ptr<Pages> pages_ = std::make_shared<Pages>();
  uint64_t size_ = 0;
};

class SimFile {
 public:
  const SimContents& cached() const { return cached_; }
  bool clean() const { return changes_.empty(); }

  void Write(uint64_t offset, std::string data);
  void PunchHole(ByteRange range);
  void Truncate(uint64_t size);
  // `source_number` names it in SourceSynced(). REQUIRES: blocks on both sides, inside the source, which has no clones of its own.
  void CloneFrom(const SimFile& source, uint64_t source_number, uint64_t source_offset,
                 ByteRange range);
  // What was cloned from there until now is on the medium; or, the sync having failed, may never be.
  void SourceSynced(uint64_t source_number, bool ok);

  void Sync();
  void FailSync(Random& random);
  void CutPower(Random& random);

 private:
  enum class Kind { kWrite, kHole, kTruncate, kClone };
  // A sector whose data is not on the medium though the name of its block is.
  struct Unbacked {
    std::optional<uint64_t> source;  // that it waits for; nullopt: for ever
    std::string found;               // what a power cut may leave instead
  };
  using UnbackedSectors = std::map<uint64_t, Unbacked>;  // by offset
  struct Change {
    Kind kind;
    ByteRange range;  // kTruncate: [new size, old size or more)
    std::shared_ptr<const std::string> data;
    UnbackedSectors unbacked = {};  // kClone
  };
  static void Apply(const Change& change, SimContents* contents);
  void Tear(const Change& change, Random& random);
  // `part` of the change is on the medium.
  void Reached(const Change& change, ByteRange part);
  void ResolveChanges(Random& random);

  SimContents cached_;
  SimContents durable_;
  std::vector<Change> changes_;  // in cached_, not in durable_
  UnbackedSectors unbacked_;     // of durable_
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SIM_FILE_H_
