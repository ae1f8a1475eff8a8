// client/intent_log.h
//
// IntentLog is the write-intent log of a tee-mode group: one durable bit per 4 MiB region of each volume that says "the local disk
// and the standby may differ here". After a crash those regions are compared, and nothing else.
//
// Rule     a region's bit is durable before the first local write to it begins (Begin() returns). It is cleared, lazily and without
//          a sync, when all that was written there is durable at the standby and synced locally and it was not touched since.
// Order    1. Begin: bit set in memory, sector written, file synced, return; only then the caller writes to its disk.
//          2. Clear: bit taken away in memory, sector written. One thread at a time has the file's turn, and it takes the
//             sectors' contents from memory when its turn begins: so the last write of a sector has the newest bits, and a
//             Begin() that comes after (1) or during (2) the Clear of its region finds the bit gone, and writes and syncs anew.
//          3. Touching a region (Begin, End) gives it a new stamp; Clear() passes over a region whose stamp is not the one that
//             Cleanable() saw, and over one with a writer.
// Owner    remembers what has no place in the stream, in its dirty map or among the suspects, *before* End(), until an operation that
//          carries it was queued under a Begin()/End() of its own with that operation's sequence. A range that a comparison has found
//          equal needs one too, of a later operation: the standby may have compared what was not yet durable. Cleanable() asks the
//          owner's `keep` about each candidate, and that answer alone holds such a region, those that Open() found set too.
// File     `intent` in the agent's state directory, little-endian, made whole, synced, renamed into place, and its directory synced;
//          from then on it is written in place, so a full file system does not matter:
//
//            header   whole sectors: "UNDRSTYI", version u32, header bytes u32, region bytes u32, volumes u32, then for each
//                     volume {size_bytes u64, name length u32, name}; the last four bytes: CRC32C of all before
//            volumes  for each, sectors of 512 bytes: crc32c u32 of the 508 that follow | zero u32 | 504 bytes of bitmap, 4032 regions,
//                     the lowest bit first
//            ids      one sector: crc32c u32 of the 508 that follow | zero u32 | id u64 | the id
//                     before it u64 | zeroes. Each opening makes a new id, and the owner keeps it
//                     elsewhere: so a file of another copy is found out. The file has both ids
//                     until the next opening, for the owner keeps the new one later, or cannot. A
//                     file that is made has one, which the owner has kept before. An older file has
//                     no such sector; where it cannot grow it stays so.
//
//          A write is torn at a sector's edge at worst, so it damages nothing. A sector with a bad CRC counts as all its
//          regions set, and a log line says so.
// Lost     after a failed write or sync the file is removed, which needs no space; where that fails
//          it is emptied in place, as in a directory that is not writable any more. No file, or an
//          empty one, means that everything may differ: so writes go on, and their bits are in
//          memory only, until Make() has made a new file.
// Failed   when neither is possible the file misses what would be written from now on, and a
//          restart would trust it. So every later Begin() that needs a new bit and every Clear()
//          fails, until Lose() succeeds; writes to regions whose bit is durable go on.
// Threads  all methods from any thread; one leaf mutex, never held across I/O.
// Source   DRBD's activity log; Linux md's write-intent bitmap.
#ifndef UNDERSTUDY_CLIENT_INTENT_LOG_H_
#define UNDERSTUDY_CLIENT_INTENT_LOG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "client/client_types.h"
#include "client/intent_file.h"
#include "storage/base/byte_range.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class IntentLog {
 public:
  static constexpr uint64_t kRegionBytes = 4 << 20;
  static constexpr uint64_t kRegionsPerSector = kIntentBitmapBytes * 8;
  static constexpr uint64_t kAheadRegions = 16;  // one sync marks so many for a sequential writer

  // A region that Cleanable() proposes.
  struct Region {
    uint32_t volume = 0;  // index into the volumes given to Open()
    uint64_t index = 0;
    uint64_t stamp = 0;  // when it was last touched, in Begins and Ends
  };

  // Why the file is lost (`gone`) or has failed. Told when it becomes so; may come from any thread,
  // without the mutex.
  using OnLost = std::function<void(const absl::Status& why, bool gone)>;

  // Reads `path`; without it, when it is empty, or when it has not the id that the owner has kept
  // (0: none), the log is lost, and Make() makes it. While more than `regions_max` are set,
  // recently written regions are proposed, too; Begin() does not wait for it. kFailedPrecondition,
  // naming the file and the remedy, when it is of other volumes or of a newer release; kDataLoss
  // likewise when its header is damaged or its size is not right. `file_system` outlives the log.
  static absl::StatusOr<std::unique_ptr<IntentLog>> Open(base::FileSystem& file_system,
                                                         const std::string& path,
                                                         std::vector<VolumeSpec> volumes,
                                                         uint64_t regions_max, uint64_t kept_id = 0,
                                                         OnLost on_lost = {});
  ~IntentLog();

  // Open() found no file, or another one: what differs is not known from it.
  bool was_missing() const { return was_missing_; }
  // For the owner to keep: when Open() has found the file, at any time after that; else before
  // Make(). 0: the file has none.
  uint64_t id() const { return id_; }
  // There is no file that counts: everything is to be compared after the owner's next end.
  bool lost() const;
  // Why the file can be neither written nor removed, so that Begin() fails; OK: it is not so.
  absl::Status failure() const;
  bool kept() const;  // neither
  // Removes the file, durably: the owner could not store what the bits do not say, or tries again
  // after a failure(). An error: it is still there.
  absl::Status Lose(const absl::Status& why);
  // Makes a lost file anew with what is set, durably; else it stays lost. REQUIRES: what differs
  // elsewhere has been stored, and id() kept.
  absl::Status Make();
  // What was set when it was opened, coalesced, in order: the suspects after a crash.
  const std::vector<ByteRange>& Loaded(uint32_t volume) const { return loaded_[volume]; }
  // What is set now, likewise.
  std::vector<ByteRange> SetRanges(uint32_t volume) const;

  // Before a local write, zeroing or discard of `range`, which is not empty and lies in the volume. Returns when the bits of its
  // regions are durable: nearly always at once. Those who need new bits at the same time share one write and one sync; when a
  // write has reached the end of the region before, the regions that follow are marked as well. Counts a writer in each region
  // until End(). On error the caller must not write, nor call End().
  absl::Status Begin(uint32_t volume, ByteRange range);
  // As so many Begin(), with one wait for all. `results`, as many as `ranges`: those that are not
  // OK before are passed over.
  void BeginAll(uint32_t volume, std::span<const ByteRange> ranges,
                std::span<absl::Status> results);
  // The same range as in Begin(); the local write is done, well or badly, and has its place in the stream at `stream_sequence`; 0: it
  // has none, the owner remembers it (see above). Sequences here grow over all streams: they are the
  // forwarder's tickets.
  void End(uint32_t volume, ByteRange range, uint64_t stream_sequence);

  // ---- cleaning, by one thread of the owner: propose, sync the local disks, clear ---------------------------------------
  // The regions that are set, have no writer, were not touched since the call before this one, have no sequence above
  // `durable_sequence` and are not kept; while more than regions_max are set also the touched ones, least recently touched first.
  // `keep` is called without the mutex held.
  using Keep = absl::FunctionRef<bool(uint32_t volume, ByteRange region)>;
  std::vector<Region> Cleanable(uint64_t durable_sequence, Keep keep);
  // Between two such calls: only as many as are set above regions_max, least recently touched first.
  std::vector<Region> Excess(uint64_t durable_sequence, Keep keep) const;
  // Clears those that were not touched since. REQUIRES: the local disks were synced after Cleanable() returned.
  absl::Status Clear(std::span<const Region> regions);

  uint64_t set_regions() const;
  uint64_t set_bytes() const;  // lost: of all regions
  bool over_limit() const { return set_regions() > regions_max_; }
  uint64_t syncs() const;  // of the file, since it was opened

 private:
  struct State {
    uint64_t round = 0;  // the commit that makes or made the bit durable
    uint64_t stamp = 0;
    uint64_t sequence = 0;  // the highest
    uint32_t writers = 0;
    bool filled = false;  // a write has reached its end
  };
  struct Volume {
    VolumeSpec spec;
    uint64_t first_sector = 0;  // in the file
    uint64_t regions = 0;
    std::unordered_map<uint64_t, State> set;
    std::string bits;  // what the sectors say or are about to say
  };
  struct DamagedSector {
    std::string volume;
    uint64_t number = 0;
  };
  struct Candidate {
    Region region;
    ByteRange range;
  };
  struct Candidates {
    std::vector<Candidate> quiet;
    std::vector<Candidate> recent;  // touched since the call before
    uint64_t over = 0;              // how many more than regions_max are set
  };
  // Appends candidates that are not kept, least recently touched first, until there are `total`.
  static void TakeOldest(std::vector<Candidate> from, uint64_t total, Keep keep,
                         std::vector<Region>& regions);
  using Sectors = std::map<uint64_t, std::string>;  // contents by number in the file

  IntentLog(base::FileSystem& file_system, std::string path, std::vector<VolumeSpec> volumes,
            uint64_t regions_max, OnLost on_lost);

  static ByteRange RegionRange(const Volume& volume, uint64_t region);
  static std::vector<ByteRange> Ranges(const Volume& volume);
  uint64_t id_offset() const { return sectors_ * kSectorBytes; }
  // Whether the file that was read has the owner's id; logs when not.
  bool IsKept(absl::string_view file, uint64_t kept_id) const;
  // Beside the kept one, in place; goes on without an id where the file `grows` by it, and cannot.
  absl::Status WriteId(uint64_t kept_id, bool grows);
  // Takes over what the file, unless it is empty, says.
  void Load(absl::string_view file);
  std::vector<DamagedSector> ReadBitsLocked(absl::string_view file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  static void ClearBit(Volume& volume, uint64_t region);
  void MarkLocked(Volume& volume, uint64_t region) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkAheadLocked(Volume& volume, uint64_t region) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts a writer in each region; returns the round that makes them all durable.
  uint64_t EnterLocked(Volume& volume, ByteRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveLocked(Volume& volume, ByteRange range, uint64_t sequence)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One write and one sync for all that is marked by now. Lets go of the mutex meanwhile. REQUIRES: nobody has the turn.
  void CommitLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After Write...() or RemoveFile().
  void EndTurnLocked(const absl::Status& status, const absl::Status& removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // By whoever has the turn, without the mutex: the file is gone or empty, durably; else `why`.
  absl::Status RemoveFile(const absl::Status& why);
  absl::Status RemoveOrEmpty();
  // failure_, for whoever is refused.
  absl::Status RefusalLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Candidates CandidatesLocked(uint64_t durable_sequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Sectors SectorsLocked(const std::set<uint64_t>& numbers) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string AllSectorsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteSectors(const Sectors& sectors);

  base::FileSystem& file_system_;
  const std::string path_;
  const std::string header_;
  const uint64_t regions_max_;
  const OnLost on_lost_;
  // Constant once Open() has returned.
  uint64_t id_;
  bool was_missing_ = false;
  uint64_t sectors_ = 0;  // of the file, without that of the ids
  std::vector<std::vector<ByteRange>> loaded_;
  // Of whoever has the turn; null: lost.
  std::unique_ptr<base::File> file_;
  std::optional<bool> told_gone_;  // what the owner knows; none: nothing, or that it was made

  mutable base::Mutex mutex_;
  base::CondVar turn_over_;
  std::vector<Volume> volumes_ ABSL_GUARDED_BY(mutex_);
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;            // someone has the file's turn
  std::set<uint64_t> unsynced_ ABSL_GUARDED_BY(mutex_);  // sectors with bits for the next commit
  uint64_t next_round_ ABSL_GUARDED_BY(mutex_) = 1;      // the commit that takes what is marked now
  uint64_t durable_round_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_stamp_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t hand_ ABSL_GUARDED_BY(mutex_) = 0;  // lower stamps are older than the last Cleanable()
  uint64_t syncs_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_INTENT_LOG_H_
