#include "tests/testing/sim_disk.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::testing {
namespace {
constexpr uint64_t kDefaultCapacityBytes = 1ULL << 40;
constexpr uint64_t kDelayMicrosMax = 1500;
}  // namespace

struct SimDisk::State {
  std::map<uint64_t, std::shared_ptr<Inode>> inodes;
  Names names;    // as the process sees them
  Names durable;  // as they are on the medium
  std::vector<NameChange> changes;
  uint64_t next_inode = 2;
};

const char* SimIoName(SimIoKind kind) {
  switch (kind) {
    case SimIoKind::kWrite:
      return "write";
    case SimIoKind::kPunchHole:
      return "punch hole";
    case SimIoKind::kClone:
      return "clone";
    case SimIoKind::kTruncate:
      return "truncate";
    case SimIoKind::kSync:
      return "sync";
    case SimIoKind::kCreate:
      return "create";
    case SimIoKind::kRename:
      return "rename";
    case SimIoKind::kRemove:
      return "remove";
    case SimIoKind::kCreateDirectory:
      return "create directory";
    case SimIoKind::kSyncDirectory:
      return "sync directory";
  }
  return "?";
}

std::string SimParent(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

// An open file. Its inode outlives its name.
class SimDisk::Handle : public base::File {
 public:
  Handle(SimDisk& disk, std::string path, std::shared_ptr<Inode> inode, uint64_t number,
         const base::OpenOptions& options)
      : disk_(disk),
        path_(std::move(path)),
        inode_(std::move(inode)),
        number_(number),
        locked_(options.lock),
        read_only_(options.read_only) {}
  ~Handle() override {
    base::MutexLock lock(disk_.mutex_);
    --disk_.open_files_;
    --inode_->open_count;
    if (locked_) inode_->locked = false;
  }

  absl::Status Read(uint64_t offset, std::span<char> out) const override {
    base::MutexLock lock(disk_.mutex_);
    RETURN_IF_ERROR(disk_.CheckAlive(path_));
    const SimContents& contents = inode_->file.cached();
    if (offset + out.size() > contents.size()) {
      return absl::OutOfRangeError(absl::StrCat(path_, ": file ends at ", contents.size()));
    }
    contents.Read(offset, out);
    return absl::OkStatus();
  }
  absl::Status Write(uint64_t offset, std::span<const iovec> pieces) override {
    UNDERSTUDY_CHECK(!read_only_, path_);
    return disk_.WriteTo(*inode_, path_, offset, pieces);
  }
  absl::Status PunchHole(ByteRange range) override {
    return disk_.ChangeInode(SimIoKind::kPunchHole, *inode_, path_,
                             [&](SimFile& file) { file.PunchHole(range); });
  }
  absl::Status CloneFrom(const base::File& source, uint64_t source_offset, uint64_t offset,
                         uint64_t length) override {
    const auto* const handle = dynamic_cast<const Handle*>(&source);
    UNDERSTUDY_CHECK(handle != nullptr && !read_only_, path_);
    return disk_.CloneInto(*inode_, path_, ByteRange::OfLength(offset, length), *handle,
                           source_offset);
  }
  absl::Status Sync() override { return disk_.SyncInode(number_, *inode_, path_); }
  absl::Status Truncate(uint64_t size_bytes) override {
    return disk_.ChangeInode(SimIoKind::kTruncate, *inode_, path_,
                             [&](SimFile& file) { file.Truncate(size_bytes); });
  }
  absl::StatusOr<uint64_t> Size() const override {
    base::MutexLock lock(disk_.mutex_);
    RETURN_IF_ERROR(disk_.CheckAlive(path_));
    return inode_->file.cached().size();
  }
  absl::StatusOr<uint64_t> AllocatedBytes() const override {
    base::MutexLock lock(disk_.mutex_);
    RETURN_IF_ERROR(disk_.CheckAlive(path_));
    return inode_->file.cached().allocated_bytes();
  }
  absl::StatusOr<base::FileIdentity> Identity() const override {
    return base::FileIdentity{.file_system = "simulated", .inode = number_};
  }
  bool IsBlockDevice() const override { return false; }
  absl::StatusOr<ByteRange> NextData(uint64_t offset) const override {
    base::MutexLock lock(disk_.mutex_);
    RETURN_IF_ERROR(disk_.CheckAlive(path_));
    return inode_->file.cached().NextData(offset);
  }

  const SimFile& file() const { return inode_->file; }
  uint64_t number() const { return number_; }

 private:
  SimDisk& disk_;
  const std::string path_;
  const std::shared_ptr<Inode> inode_;
  const uint64_t number_;
  const bool locked_;
  const bool read_only_;
};

// ---- faults --------------------------------------------------------------------------------------------------------------------

SimDisk::SimDisk(uint64_t seed) : state_(std::make_unique<State>()), random_(seed) {
  base::MutexLock lock(mutex_);
  auto root = std::make_shared<Inode>();
  root->directory = true;
  state_->inodes[1] = std::move(root);
  state_->names["/"] = state_->durable["/"] = 1;
}

SimDisk::~SimDisk() = default;

void SimDisk::SetHook(Hook hook) {
  base::MutexLock lock(mutex_);
  hook_ = std::move(hook);
}

uint64_t SimDisk::io_count() const {
  base::MutexLock lock(mutex_);
  return io_count_;
}

bool SimDisk::dead() const {
  base::MutexLock lock(mutex_);
  return dead_ != SimFault::kNone;
}

void SimDisk::CutPower() {
  base::MutexLock lock(mutex_);
  if (dead_ == SimFault::kNone) dead_ = SimFault::kPowerCut;
}

void SimDisk::Kill() {
  base::MutexLock lock(mutex_);
  if (dead_ == SimFault::kNone) dead_ = SimFault::kKill;
}

void SimDisk::Reseed(uint64_t seed) {
  base::MutexLock lock(mutex_);
  random_.seed(seed);
}

void SimDisk::OrderDirectories(const std::string& path) {
  base::MutexLock lock(mutex_);
  ordered_.push_back(path);
}

void SimDisk::SetCapacity(uint64_t bytes) {
  base::MutexLock lock(mutex_);
  capacity_bytes_ = bytes;
}

void SimDisk::UseReflinks() {
  base::MutexLock lock(mutex_);
  reflinks_ = true;
}

void SimDisk::TakeTime() { takes_time_.store(true); }

bool SimDisk::Ordered(const std::string& path) const {
  return std::any_of(ordered_.begin(), ordered_.end(), [&](const std::string& prefix) {
    return absl::StartsWith(path, absl::StrCat(prefix, "/"));
  });
}

void SimDisk::ResolveNames() {
  // Per directory: everything, nothing, or some; where the order is kept, some means a prefix.
  struct Choice {
    uint64_t style = 0;
    bool ended = false;
  };
  std::map<std::string, Choice> choices;
  for (const NameChange& change : state_->changes) {
    const std::string directory = SimParent(change.front().first);
    auto [choice, fresh] = choices.try_emplace(directory);
    if (fresh) choice->second.style = random_() % 4;
    bool keep = choice->second.style == 0 || (choice->second.style > 1 && random_() % 2 == 0);
    if (Ordered(change.front().first)) {
      choice->second.ended = choice->second.ended || !keep;
      keep = !choice->second.ended;
    }
    if (!keep) continue;
    for (const auto& [name, inode] : change) {
      if (inode.has_value()) {
        state_->durable[name] = *inode;
      } else {
        state_->durable.erase(name);
      }
    }
  }
  state_->changes.clear();
  // What lay in a directory that never came to be is gone, too. Parents sort before their children.
  for (auto it = state_->durable.begin(); it != state_->durable.end();) {
    const bool lost = it->first != "/" && !state_->durable.contains(SimParent(it->first));
    it = lost ? state_->durable.erase(it) : std::next(it);
  }
  state_->names = state_->durable;
}

void SimDisk::ForgetUnnamed() {
  std::map<uint64_t, std::shared_ptr<Inode>> named;
  const auto keep = [&](uint64_t number) { named.emplace(number, state_->inodes.at(number)); };
  for (const auto& [name, number] : state_->names) keep(number);
  for (const auto& [name, number] : state_->durable) keep(number);
  for (const NameChange& change : state_->changes) {
    for (const auto& [name, number] : change) {
      if (number.has_value()) keep(*number);
    }
  }
  state_->inodes.swap(named);
}

void SimDisk::Restart() {
  base::MutexLock lock(mutex_);
  UNDERSTUDY_CHECK(open_files_ == 0, open_files_, " files are still open");
  if (dead_ == SimFault::kPowerCut) {
    ResolveNames();
    for (auto& [number, inode] : state_->inodes) inode->file.CutPower(random_);
  }
  ForgetUnnamed();
  dead_ = SimFault::kNone;
}

std::shared_ptr<const SimDisk::State> SimDisk::Save() const {
  base::MutexLock lock(mutex_);
  UNDERSTUDY_CHECK(open_files_ == 0, open_files_, " files are still open");
  auto copy = std::make_shared<State>(*state_);
  for (auto& [number, inode] : copy->inodes) inode = std::make_shared<Inode>(*inode);
  return copy;
}

void SimDisk::Load(const std::shared_ptr<const State>& state) {
  base::MutexLock lock(mutex_);
  UNDERSTUDY_CHECK(open_files_ == 0, open_files_, " files are still open");
  *state_ = *state;
  for (auto& [number, inode] : state_->inodes) inode = std::make_shared<Inode>(*inode);
  dead_ = SimFault::kNone;
  io_count_ = 0;
}

absl::Status SimDisk::CheckAlive(const std::string& path) const {
  if (dead_ == SimFault::kNone) return absl::OkStatus();
  return base::ErrnoStatus(EIO, absl::StrCat(path, ": the simulated process is dead"));
}

absl::Status SimDisk::Begin(SimIoKind kind, const std::string& path, bool* act, uint64_t offset) {
  *act = false;
  RETURN_IF_ERROR(CheckAlive(path));
  ++io_count_;
  const SimFault fault =
      hook_ == nullptr ? SimFault::kNone
                       : hook_({.number = io_count_, .kind = kind, .path = path, .offset = offset});
  switch (fault) {
    case SimFault::kNone:
      *act = true;
      return absl::OkStatus();
    case SimFault::kIgnore:
      return absl::OkStatus();
    case SimFault::kPowerCut:
    case SimFault::kKill:
      // Whether it was still done is the medium's business after a power cut, a matter of luck after a kill.
      *act = fault == SimFault::kPowerCut || random_() % 2 == 0;
      dead_ = fault;
      return CheckAlive(path);
    case SimFault::kIoError:
      return base::ErrnoStatus(EIO, absl::StrCat(path, ": ", SimIoName(kind)));
    case SimFault::kNoSpace:
      return base::ErrnoStatus(ENOSPC, absl::StrCat(path, ": ", SimIoName(kind)));
  }
  return absl::OkStatus();
}

// ---- files ---------------------------------------------------------------------------------------------------------------------

uint64_t SimDisk::UsedBytes() const {
  uint64_t bytes = 0;
  std::map<uint64_t, bool> named;
  for (const auto& [name, number] : state_->names) named[number] = true;
  for (const auto& [number, inode] : state_->inodes) {
    if (named.contains(number) || inode->open_count > 0)
      bytes += inode->file.cached().allocated_bytes();
  }
  return bytes;
}

uint64_t SimDisk::FreeBytes() const {
  const uint64_t capacity = capacity_bytes_ == 0 ? kDefaultCapacityBytes : capacity_bytes_;
  return capacity - std::min(capacity, UsedBytes());
}

// Without the lock: other I/Os go on.
void SimDisk::Delay() const {
  if (!takes_time_.load()) return;
  thread_local std::minstd_rand random(
      static_cast<unsigned>(std::hash<std::thread::id>()(std::this_thread::get_id()) >> 8));
  if (random() % 3 == 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % kDelayMicrosMax));
  }
}

absl::Status SimDisk::WriteTo(Inode& inode, const std::string& path, uint64_t offset,
                              std::span<const iovec> pieces) {
  Delay();
  std::string data;
  for (const iovec& piece : pieces)
    data.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));  // whoever comes later is not there any more
  bool act = false;
  absl::Status status = Begin(SimIoKind::kWrite, path, &act, offset);
  const uint64_t pages =
      capacity_bytes_ == 0
          ? 0
          : inode.file.cached().MissingPages(ByteRange::OfLength(offset, data.size()));
  if (status.ok() && act && pages > 0 && pages * kSimPageBytes > FreeBytes()) {
    status = base::ErrnoStatus(ENOSPC, absl::StrCat(path, ": write"));
    act = false;
  }
  const bool whole = act && dead_ != SimFault::kKill;
  // A write that fails or is interrupted may have done its first part.
  if (!whole && !status.ok() && dead_ != SimFault::kPowerCut && pages == 0) {
    data.resize(random_() % (data.size() / kSectorBytes + 1) * kSectorBytes);
  } else if (!act) {
    data.clear();
  }
  if (!data.empty()) inode.file.Write(offset, std::move(data));
  return status;
}

absl::Status SimDisk::SyncInode(uint64_t number, Inode& inode, const std::string& path) {
  Delay();
  base::MutexLock lock(mutex_);
  bool act = false;
  const absl::Status status = Begin(SimIoKind::kSync, path, &act);
  const bool failed = !status.ok() && dead_ == SimFault::kNone;
  if (status.ok() && act) inode.file.Sync();
  if (failed) inode.file.FailSync(random_);
  const bool told = reflinks_ && (failed || (status.ok() && act));
  for (auto& [_, other] : state_->inodes) {
    if (told) other->file.SourceSynced(number, status.ok());
  }
  return status;
}

absl::Status SimDisk::CloneInto(Inode& inode, const std::string& path, ByteRange range,
                                const Handle& source, uint64_t source_offset) {
  base::MutexLock lock(mutex_);
  const bool blocks = (range.start | range.end | source_offset) % kSimPageBytes == 0;
  const bool inside = source_offset + range.size() <= source.file().cached().size();
  if (!reflinks_ || !blocks || !inside || &source.file() == &inode.file) {
    return absl::UnimplementedError(absl::StrCat(path, ": clone"));
  }
  RETURN_IF_ERROR(CheckAlive(path));
  bool act = false;
  const absl::Status status = Begin(SimIoKind::kClone, path, &act, range.start);
  const bool whole = act && dead_ != SimFault::kKill;
  // As a write: one that fails or is interrupted may have done its first part.
  if (!whole && !status.ok() && dead_ != SimFault::kPowerCut) {
    range.end = range.start + random_() % (range.size() / kSimPageBytes + 1) * kSimPageBytes;
  } else if (!act) {
    range.end = range.start;
  }
  if (!range.empty()) {
    inode.file.CloneFrom(source.file(), source.number(), source_offset, range);
  }
  return status;
}

absl::Status SimDisk::ChangeInode(SimIoKind kind, Inode& inode, const std::string& path,
                                  const std::function<void(SimFile&)>& change) {
  base::MutexLock lock(mutex_);
  bool act = false;
  const absl::Status status = Begin(kind, path, &act);
  if (act) change(inode.file);
  return status;
}

// ---- names ---------------------------------------------------------------------------------------------------------------------

SimDisk::Inode* SimDisk::Find(const std::string& path) const {
  const auto name = state_->names.find(path);
  return name == state_->names.end() ? nullptr : state_->inodes.at(name->second).get();
}

absl::Status SimDisk::CheckParent(const std::string& path) const {
  const Inode* const parent = Find(SimParent(path));
  if (parent == nullptr) return base::ErrnoStatus(ENOENT, path);
  return parent->directory ? absl::OkStatus() : base::ErrnoStatus(ENOTDIR, path);
}

std::shared_ptr<SimDisk::Inode> SimDisk::NewInode(bool directory, uint64_t* number) {
  auto inode = std::make_shared<Inode>();
  inode->directory = directory;
  *number = state_->next_inode++;
  state_->inodes[*number] = inode;
  return inode;
}

void SimDisk::ChangeNames(NameChange change) {
  for (const auto& [name, inode] : change) {
    if (inode.has_value()) {
      state_->names[name] = *inode;
    } else {
      state_->names.erase(name);
    }
  }
  state_->changes.push_back(std::move(change));
}

absl::StatusOr<std::unique_ptr<base::File>> SimDisk::Open(const std::string& path,
                                                          const base::OpenOptions& options) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  if (Find(path) == nullptr) {
    if (!options.create) return base::ErrnoStatus(ENOENT, path);
    RETURN_IF_ERROR(CheckParent(path));
    bool act = false;
    const absl::Status status = Begin(SimIoKind::kCreate, path, &act);
    if (act) {
      uint64_t number = 0;
      NewInode(/*directory=*/false, &number);
      ChangeNames({{path, number}});
    }
    RETURN_IF_ERROR(status);
  } else if (options.create && options.exclusive) {
    return base::ErrnoStatus(EEXIST, path);
  }
  const uint64_t number = state_->names.at(path);
  const std::shared_ptr<Inode> inode = state_->inodes.at(number);
  if (inode->directory) return base::ErrnoStatus(EISDIR, path);
  if (options.lock) {
    if (inode->locked) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": in use by another process"));
    }
    inode->locked = true;
  }
  ++inode->open_count;
  ++open_files_;
  return std::make_unique<Handle>(*this, path, inode, number, options);
}

absl::Status SimDisk::CreateDirectory(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    const Inode* const found = Find(part);
    if (found != nullptr && !found->directory) return base::ErrnoStatus(ENOTDIR, part);
    if (found == nullptr) {
      bool act = false;
      const absl::Status status = Begin(SimIoKind::kCreateDirectory, part, &act);
      if (act) {
        uint64_t number = 0;
        NewInode(/*directory=*/true, &number);
        ChangeNames({{part, number}});
      }
      RETURN_IF_ERROR(status);
    }
    if (slash == std::string::npos) return absl::OkStatus();
  }
}

absl::Status SimDisk::SyncDirectory(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  const Inode* const found = Find(path);
  if (found == nullptr) return base::ErrnoStatus(ENOENT, path);
  if (!found->directory) return base::ErrnoStatus(ENOTDIR, path);
  bool act = false;
  const absl::Status status = Begin(SimIoKind::kSyncDirectory, path, &act);
  if (!status.ok() || !act) return status;
  std::erase_if(state_->changes, [&](const NameChange& change) {
    const bool here = std::any_of(change.begin(), change.end(), [&](const auto& effect) {
      return SimParent(effect.first) == path;
    });
    if (!here) return false;
    for (const auto& [name, inode] : change) {
      if (inode.has_value()) {
        state_->durable[name] = *inode;
      } else {
        state_->durable.erase(name);
      }
    }
    return true;
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SimDisk::List(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  if (Find(path) == nullptr) return base::ErrnoStatus(ENOENT, path);
  const std::string prefix = path == "/" ? path : absl::StrCat(path, "/");
  std::vector<std::string> found;
  for (auto it = state_->names.lower_bound(prefix);
       it != state_->names.end() && absl::StartsWith(it->first, prefix); ++it) {
    const std::string name = it->first.substr(prefix.size());
    if (!name.empty() && name.find('/') == std::string::npos) found.push_back(name);
  }
  return found;
}

absl::Status SimDisk::Remove(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  const Inode* const found = Find(path);
  if (found == nullptr) return base::ErrnoStatus(ENOENT, path);
  const auto child = state_->names.upper_bound(absl::StrCat(path, "/"));
  if (found->directory && child != state_->names.end() &&
      absl::StartsWith(child->first, absl::StrCat(path, "/"))) {
    return base::ErrnoStatus(ENOTEMPTY, path);
  }
  bool act = false;
  const absl::Status status = Begin(SimIoKind::kRemove, path, &act);
  if (act) ChangeNames({{path, std::nullopt}});
  return status;
}

absl::Status SimDisk::Rename(const std::string& from, const std::string& to) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(from));
  const Inode* const found = Find(from);
  if (found == nullptr) return base::ErrnoStatus(ENOENT, to);
  UNDERSTUDY_CHECK(!found->directory, from, ": renaming directories is not simulated");
  RETURN_IF_ERROR(CheckParent(to));
  bool act = false;
  const absl::Status status = Begin(SimIoKind::kRename, to, &act);
  if (act) {
    const uint64_t number = state_->names.at(from);
    ChangeNames({{from, std::nullopt}, {to, number}});
  }
  return status;
}

bool SimDisk::Exists(const std::string& path) {
  base::MutexLock lock(mutex_);
  return dead_ == SimFault::kNone && Find(path) != nullptr;
}

bool SimDisk::IsDirectory(const std::string& path) {
  base::MutexLock lock(mutex_);
  const Inode* const found = dead_ == SimFault::kNone ? Find(path) : nullptr;
  return found != nullptr && found->directory;
}

absl::StatusOr<std::string> SimDisk::Resolve(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  if (Find(path) == nullptr) return base::ErrnoStatus(ENOENT, path);
  return path;
}

absl::StatusOr<base::FileSystemSpace> SimDisk::Space(const std::string& path) {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckAlive(path));
  return base::FileSystemSpace{
      .capacity_bytes = capacity_bytes_ == 0 ? kDefaultCapacityBytes : capacity_bytes_,
      .free_bytes = FreeBytes()};
}

}  // namespace understudy::testing
