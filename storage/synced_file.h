// storage/synced_file.h
//
// SyncedFile is `DATA-DIR/SYNCED`: how far the index was synced, kept outside of it. A write-ahead log says so of itself
// (index_log.h), but one that is gone, emptied, or an older copy cannot.
//
// File     one synced mark (EncodeSyncedMark()), written in place behind each synced batch. It is not synced itself: a power cut
//          may leave an older mark. So it is never ahead of a sound index, and behind by nothing while the host stays up.
// Damage   a mark that is missing or does not decode says nothing, and the next Begin() makes it anew.
// Errors   are logged once and cost nothing but the check: the index goes on.
// Threads  Write() from any; the others from the thread that opens the index.
#ifndef UNDERSTUDY_STORAGE_SYNCED_FILE_H_
#define UNDERSTUDY_STORAGE_SYNCED_FILE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"

#include "storage/base/file_system.h"

namespace understudy::storage {

class SyncedFile {
 public:
  SyncedFile(base::FileSystem& file_system, std::string path)
      : file_system_(file_system), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  // The sequence number that it promises; 0: none.
  uint64_t Read() const;
  // Makes the file, durably, with this number. Once, before Write().
  void Begin(uint64_t sequence);
  // Of concurrent calls any may be the last: each is right.
  void Write(uint64_t sequence);

 private:
  absl::Status Make(uint64_t sequence);
  void Warn(const absl::Status& status);

  base::FileSystem& file_system_;
  const std::string path_;
  std::unique_ptr<base::File> file_;  // nullptr: it could not be made
  std::atomic<bool> warned_ = false;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SYNCED_FILE_H_
