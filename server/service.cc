#include "server/service.h"

#include <future>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/stage_table.h"
#include "storage/base/file_limit.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

constexpr char kContactsFile[] = "/contacts";
constexpr absl::Duration kContactsInterval = absl::Minutes(1);
constexpr absl::Duration kShutdownTimeout = absl::Seconds(5);
constexpr absl::Duration kUndoTimeout = absl::Seconds(5);

bool AnyTopId(const storage::GroupSpec& spec) {
  for (const storage::VolumeSpec& volume : spec.volumes) {
    if (!volume.top_id.empty()) return true;
  }
  return false;
}

absl::Status CheckMode(Mode mode) {
  switch (mode) {
    case Mode::kMissing:
      return absl::InvalidArgumentError("Missing the option mode");
    case Mode::kUnknown:
      return absl::InvalidArgumentError("The option mode's value should be primary or secondary");
    case Mode::kPrimary:
    case Mode::kSecondary:
      break;
  }
  return absl::OkStatus();
}

absl::Status CheckModeAndTopIds(Mode mode, const storage::GroupSpec& spec) {
  RETURN_IF_ERROR(CheckMode(mode));
  if (mode == Mode::kPrimary) {
    if (AnyTopId(spec)) {
      return absl::InvalidArgumentError("The primary side does not support option top-id");
    }
    return WithReason(absl::InvalidArgumentError(kWrongModeText), kReasonWrongMode);
  }
  for (const storage::VolumeSpec& volume : spec.volumes) {
    if (volume.top_id.empty()) return absl::InvalidArgumentError("Missing the option top-id");
  }
  return absl::OkStatus();
}

absl::Status CheckNames(const storage::GroupSpec& spec) {
  RETURN_IF_ERROR(CheckName("group", spec.name));
  if (spec.volumes.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", spec.name, ": name at least one volume"));
  }
  for (const storage::VolumeSpec& volume : spec.volumes) {
    RETURN_IF_ERROR(CheckName("volume", volume.name));
    RETURN_IF_ERROR(CheckTopId(volume.top_id));
  }
  return absl::OkStatus();
}

// A disk that was just created is one hole. One with data was put there by somebody else at the same moment, and stays.
absl::Status DeleteEmpty(base::FileSystem& file_system, const std::string& path) {
  ASSIGN_OR_RETURN(const auto file, file_system.Open(path, {}));
  ASSIGN_OR_RETURN(const uint64_t allocated_bytes, file->AllocatedBytes());
  if (allocated_bytes == 0) return file_system.Remove(path);
  return absl::FailedPreconditionError(absl::StrCat(path, " holds data: left where it is"));
}

std::string ExportName(const std::string& group, const std::string& volume) {
  return absl::StrCat(group, "/", volume);
}

// What a started group opens beside its disks: a connection for each volume, the write stream, and of each of its two logs the
// segment that is written and the next one.
uint64_t FilesOf(const Group& group) {
  return group.volumes().size() * base::kFilesOfConnection + 1 + 4;
}

// A connection for each volume, and its log.
uint64_t FilesOfClone(const Group& group) {
  return group.volumes().size() * base::kFilesOfConnection + 2;
}

// Of both, what is not open yet; of a clone, all of it.
uint64_t FilesToComeOf(const Group& group) {
  const storage::ReplicaState state = group.replica().state();
  if (state.stage == Stage::kNone) return 0;
  return FilesOf(group) - group.ConnectionFiles() - state.open_segments +
         group.replica().clones().size() * FilesOfClone(group);
}

}  // namespace

class Service::FileHold {
 public:
  FileHold(std::atomic<uint64_t>& held, uint64_t files) : held_(&held), files_(files) {
    *held_ += files_;
  }
  FileHold(FileHold&& other) noexcept
      : held_(other.held_), files_(std::exchange(other.files_, 0)) {}
  FileHold& operator=(FileHold&&) = delete;
  ~FileHold() { *held_ -= files_; }

 private:
  std::atomic<uint64_t>* held_;
  uint64_t files_;
};

Service::Service(storage::Store& store, const base::Clock& clock, base::FileSystem& file_system,
                 std::string state_dir)
    : store_(store),
      clock_(clock),
      file_system_(file_system),
      state_dir_(std::move(state_dir)),
      requests_(file_system, state_dir_.empty() ? "" : state_dir_ + "/requests", clock,
                state_pool_),
      refusals_(clock),
      journal_(base::EventJournal::NewRun(), clock) {
  for (std::shared_ptr<storage::Replica>& replica : store.List()) {
    Add(MakeGroup(std::move(replica)));
  }
  const absl::Status enough =
      base::CheckFileLimit("what the groups have yet to open", FilesToCome());
  if (!enough.ok()) base::LogError("file_limit_low").With("status", enough);
  if (state_dir_.empty()) return;
  contacts_ = LoadContacts(file_system_, state_dir_ + kContactsFile);
  for (const auto& group : groups()) {
    const auto found = contacts_.find(group->replica().state().incarnation);
    if (found != contacts_.end()) group->RestoreContact(found->second);
  }
  KeepContacts();
}

Service::~Service() { Shutdown(); }

std::shared_ptr<Group> Service::MakeGroup(std::shared_ptr<storage::Replica> replica) {
  std::shared_ptr<base::ErrorFile> errors;
  if (!state_dir_.empty()) {
    errors = base::ErrorFile::Create(
        file_system_, absl::StrCat(state_dir_, "/errors/", replica->name(), ".errors"), state_pool_,
        replica->name());
  }
  return Group::Make(std::move(replica), clock_, stats_, journal_, stop_pool_, std::move(errors));
}

void Service::StoreContacts() {
  if (state_dir_.empty()) return;
  Contacts contacts;
  for (const auto& group : groups()) {
    const GroupStatus status = group->Status();
    if (status.replica.incarnation.none() || status.last_contact == absl::UnixEpoch()) continue;
    contacts[status.replica.incarnation] = status.last_contact;
  }
  if (contacts == contacts_) return;
  const absl::Status stored =
      server::StoreContacts(file_system_, state_dir_ + kContactsFile, contacts);
  if (stored.ok()) contacts_ = std::move(contacts);
  if (std::exchange(contacts_failing_, !stored.ok()) || stored.ok()) return;
  base::LogWarning("contacts_not_stored")
      .With("status", stored)
      .With("consequence", "after a restart an agent may seem silent for longer than it is");
}

void Service::KeepContacts() {
  stop_pool_.SubmitAfter(kContactsInterval, [this] {
    {
      const base::Turn::Hold turn(contacts_turn_);
      if (shut_down()) return;  // Shutdown() stores them once more; then the store may go
      StoreContacts();
    }
    KeepContacts();
  });
}

void Service::Add(const std::shared_ptr<Group>& group) {
  base::MutexLock lock(mutex_);
  groups_[group->name()] = group;
  for (const storage::VolumeInfo& volume : group->volumes()) {
    const auto opened = std::make_shared<Export>(group, volume, io_gate_);
    exports_[opened->name()] = opened;
    exports_[volume.top_id] = opened;
  }
}

absl::Status Service::CheckTopIds(const storage::GroupSpec& spec) const {
  const absl::Status taken = absl::FailedPreconditionError("No top_bs or it is invalid");
  std::set<std::string> own;
  for (const storage::VolumeSpec& volume : spec.volumes)
    own.insert(ExportName(spec.name, volume.name));
  std::set<std::string> top_ids;
  base::MutexLock lock(mutex_);
  for (const storage::VolumeSpec& volume : spec.volumes) {
    const bool own_name = volume.top_id == ExportName(spec.name, volume.name);
    if (!top_ids.insert(volume.top_id).second) return taken;
    if (own.count(volume.top_id) > 0 && !own_name) return taken;
    const auto other = exports_.find(volume.top_id);
    if (other != exports_.end() && other->second->group_name() != spec.name) return taken;
  }
  for (const std::string& name : own) {
    const auto other = exports_.find(name);
    if (other != exports_.end() && other->second->group_name() != spec.name) return taken;
  }
  return absl::OkStatus();
}

absl::StatusOr<OpenOutcome> Service::OpenLocked(Mode mode, const storage::GroupSpec& spec) {
  RETURN_IF_ERROR(CheckModeAndTopIds(mode, spec));
  RETURN_IF_ERROR(CheckNames(spec));
  ASSIGN_OR_RETURN(std::shared_ptr<storage::Replica> replica,
                   store_.Open(spec, [&] { return CheckTopIds(spec); }));
  if (auto known = FindGroup(spec.name); known.ok()) {
    return OpenOutcome{.group = *std::move(known), .ignored = true};
  }
  auto group = MakeGroup(std::move(replica));
  Add(group);
  journal_.Append({.kind = base::EventKind::kOpened, .group = spec.name});
  base::LogInfo("group_opened").With("group", spec.name).With("volumes", spec.volumes.size());
  return OpenOutcome{.group = std::move(group)};
}

absl::StatusOr<OpenOutcome> Service::Open(Mode mode, const storage::GroupSpec& spec,
                                          const base::Deadline& deadline) {
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, open_gate_.Enter(deadline));
  return OpenLocked(mode, spec);
}

absl::StatusOr<StartOutcome> Service::Start(Mode mode, const storage::GroupSpec& spec,
                                            const Expected& expected,
                                            const base::Deadline& deadline) {
  absl::StatusOr<StartOutcome> started = OpenAndStart(mode, spec, expected, deadline);
  if (!started.ok() || started->ignored) return started;
  if (const absl::Status room = store_.CheckRoom(); !room.ok()) {
    started->warning = absl::StrCat("nothing can be received: ", room.message());
    base::LogWarning("no_room_to_receive").With("group", spec.name).With("status", room);
  }
  return started;
}

absl::StatusOr<StartOutcome> Service::OpenAndStart(Mode mode, const storage::GroupSpec& spec,
                                                   const Expected& expected,
                                                   const base::Deadline& deadline) {
  RETURN_IF_ERROR(CheckMode(mode));
  const absl::StatusOr<std::shared_ptr<Group>> known = FindGroup(spec.name);
  // A primary has no disks here: of a group that is known, the stage answers.
  const bool stage_answers = mode == Mode::kPrimary && known.ok() && !AnyTopId(spec);
  if (spec.volumes.empty() || stage_answers) {
    RETURN_IF_ERROR(known.status());
    return StartGroup(**known, mode, expected, deadline);
  }
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, open_gate_.Enter(deadline));
  const std::vector<std::string> missing = MissingDisks(spec);
  ASSIGN_OR_RETURN(const OpenOutcome opened, OpenLocked(mode, spec));
  absl::StatusOr<StartOutcome> started = StartGroup(*opened.group, mode, expected, deadline);
  if (!started.ok() && !opened.ignored) UndoOpen(opened.group, missing);
  return started;
}

uint64_t Service::FilesToCome() const {
  uint64_t files = 0;
  for (const auto& group : groups()) files += FilesToComeOf(*group);
  return files;
}

absl::StatusOr<Service::FileHold> Service::HoldFiles(absl::string_view what, uint64_t needed) {
  const base::Turn::Hold turn(files_turn_);
  const uint64_t held = files_held_;  // first: a start that ends now is counted twice, or once
  RETURN_IF_ERROR(base::CheckFileLimit(what, needed, FilesToCome() + held));
  return FileHold(files_held_, needed);
}

absl::StatusOr<StartOutcome> Service::StartGroup(Group& group, Mode mode, const Expected& expected,
                                                 const base::Deadline& deadline) {
  if (mode == Mode::kPrimary || group.replica().state().stage != Stage::kNone) {
    return group.Start(mode == Mode::kSecondary, expected, deadline);
  }
  ASSIGN_OR_RETURN(const FileHold files, HoldFiles(absl::StrCat("group ", group.name()),
                                                   group.volumes().size() + FilesOf(group)));
  return group.Start(true, expected, deadline);
}

absl::StatusOr<storage::CloneInfo> Service::CreateClone(Group& group,
                                                        const storage::CloneSpec& spec,
                                                        const Expected& expected) {
  ASSIGN_OR_RETURN(const FileHold files,
                   HoldFiles(absl::StrCat("a clone of group ", group.name()), FilesOfClone(group)));
  return group.CreateClone(spec, expected);
}

std::vector<std::string> Service::MissingDisks(const storage::GroupSpec& spec) const {
  std::vector<std::string> missing;
  for (const storage::VolumeSpec& volume : spec.volumes) {
    if (volume.create && !file_system_.Exists(volume.disk_path))
      missing.push_back(volume.disk_path);
  }
  return missing;
}

void Service::UndoOpen(const std::shared_ptr<Group>& group,
                       const std::vector<std::string>& created) {
  // The caller's deadline may be what has failed the start.
  const absl::Status removed = RemoveLocked(group, false, {}, base::Deadline::After(kUndoTimeout));
  if (!removed.ok()) {
    base::LogError("open_not_undone").With("group", group->name()).With("status", removed);
    return;
  }
  for (const std::string& path : created) {
    if (const absl::Status deleted = DeleteEmpty(file_system_, path); !deleted.ok()) {
      base::LogWarning("disk_not_deleted").With("group", group->name()).With("status", deleted);
    }
  }
}

absl::Status Service::Remove(const std::string& name, bool force, const Expected& expected,
                             const base::Deadline& deadline,
                             std::optional<uint64_t> failback_mark) {
  ASSIGN_OR_RETURN(std::shared_ptr<Group> group, FindGroup(name));
  RETURN_IF_ERROR(group->AwaitRemovable(force, expected, deadline));
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, open_gate_.Enter(deadline));
  ASSIGN_OR_RETURN(group, FindGroup(name));  // it may be gone by now, or another one
  return RemoveLocked(group, force, expected, deadline, failback_mark);
}

absl::Status Service::RemoveLocked(const std::shared_ptr<Group>& group, bool force,
                                   const Expected& expected, const base::Deadline& deadline,
                                   std::optional<uint64_t> failback_mark) {
  const std::string& name = group->name();
  RETURN_IF_ERROR(
      group->Remove(force, expected, deadline, [&] { return store_.Remove(name, failback_mark); }));
  std::vector<std::shared_ptr<Group>> unused;  // destroyed outside the lock
  base::MutexLock lock(mutex_);
  groups_.erase(name);
  journal_.Append({.kind = base::EventKind::kRemoved, .group = name});
  std::erase_if(exports_, [&](const auto& entry) { return entry.second->group_name() == name; });
  for (auto& old : retired_) {
    if (old.use_count() == 1) unused.push_back(std::move(old));
  }
  std::erase(retired_, nullptr);
  retired_.push_back(group);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Group>> Service::FindGroup(const std::string& name) const {
  base::MutexLock lock(mutex_);
  const auto found = groups_.find(name);
  if (found != groups_.end()) return found->second;
  return WithReason(
      absl::NotFoundError(absl::StrCat("group \"", name, "\" is not open here: open it first")),
      kReasonUnknownGroup);
}

std::vector<std::shared_ptr<Group>> Service::groups() const {
  base::MutexLock lock(mutex_);
  std::vector<std::shared_ptr<Group>> groups;
  for (const auto& [name, group] : groups_) groups.push_back(group);
  return groups;
}

absl::StatusOr<std::shared_ptr<Export>> Service::FindExport(const std::string& name) {
  {
    base::MutexLock lock(mutex_);
    const auto found = exports_.find(name);
    if (found != exports_.end()) return found->second;
  }
  if (name.find('@') != std::string::npos)
    return FindCloneExport(name);  // no name or top-id has one
  return absl::NotFoundError(absl::StrCat("no export \"", name,
                                          "\": use GROUP/VOLUME or the top-id of an open volume, "
                                          "or GROUP@CLONE/VOLUME"));
}

absl::StatusOr<std::shared_ptr<Export>> Service::FindCloneExport(const std::string& name) {
  const size_t at = name.find('@');
  const size_t slash = name.find('/', at);
  const std::string clone =
      name.substr(at + 1, slash == std::string::npos ? slash : slash - at - 1);
  const std::string volume_name = slash == std::string::npos ? "" : name.substr(slash + 1);
  ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, FindGroup(name.substr(0, at)));
  ASSIGN_OR_RETURN(const std::shared_ptr<storage::BlockView> view,
                   group->replica().FindClone(clone));
  for (const storage::VolumeInfo& volume : group->volumes()) {
    if (volume.name != volume_name) continue;
    return std::make_shared<Export>(group, volume, io_gate_, clone, view);
  }
  return absl::NotFoundError(absl::StrCat("no export \"", name, "\": group ", group->name(),
                                          " has no volume \"", volume_name, "\""));
}

std::vector<std::string> Service::ExportNames() const {
  std::vector<std::string> names;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [name, opened] : exports_) names.push_back(name);
  }
  for (const auto& group : groups()) {
    for (const storage::CloneInfo& clone : group->replica().clones()) {
      for (std::string& name : CloneExportNames(group->name(), clone.spec.name, group->volumes())) {
        names.push_back(std::move(name));
      }
    }
  }
  return names;
}

std::vector<std::string> Service::VolumeExportNames() const {
  std::set<std::string> names;
  base::MutexLock lock(mutex_);
  for (const auto& [name, opened] : exports_) names.insert(opened->name());
  return {names.begin(), names.end()};
}

std::string Service::DefaultExportName() const {
  const std::vector<std::string> names = VolumeExportNames();
  return names.size() == 1 ? names.front() : "";
}

bool Service::shut_down() const {
  base::MutexLock lock(mutex_);
  return shut_down_;
}

bool Service::StoreLast() {
  const auto stored = std::make_shared<std::promise<void>>();
  const std::future<void> ended = stored->get_future();
  stop_pool_.Submit([this, stored] {
    for (const auto& group : groups()) group->StoreErrors();
    const base::Turn::Hold turn(contacts_turn_);
    StoreContacts();
    stored->set_value();
  });
  const auto timeout = absl::ToChronoMilliseconds(kShutdownTimeout);
  if (ended.wait_for(timeout) == std::future_status::ready) return true;
  base::LogWarning("state_dir_stuck_at_shutdown")
      .With("path", state_dir_)
      .With("consequence",
            "a restart forgets the newest latched errors, and when agents were last "
            "heard");
  return false;
}

bool Service::Shutdown() {
  {
    base::MutexLock lock(mutex_);
    if (std::exchange(shut_down_, true)) return true;
  }
  bool quiet = io_gate_.Close(kShutdownTimeout);
  if (!quiet) base::LogWarning("io_stuck_at_shutdown");
  const base::Deadline deadline = base::Deadline::After(kShutdownTimeout);
  for (const auto& group : groups()) {
    if (!group->Detach(absl::UnavailableError("the service is shutting down"), deadline)) {
      quiet = false;
    }
    if (!group->AwaitPlannedStop(deadline)) {
      base::LogWarning("stop_at_work_at_shutdown").With("group", group->name());
      quiet = false;
    }
  }
  if (!StoreLast()) quiet = false;
  timer_pool_.Shutdown();
  return quiet;
}

}  // namespace understudy::server
