// understudyctl: the command line for people and scripts. Here the words are taken apart and nothing is checked, so that
// Interpret() can tell all that is wrong at once.
#include <cstdlib>
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

#include "client/ctl/arguments.h"
#include "client/ctl/command.h"
#include "client/ctl/invocation.h"
#include "client/ctl/terminal.h"
#include "storage/base/clock.h"
#include "storage/base/command_line.h"

namespace understudy::ctl {
namespace {

constexpr char kFooter[] =
    R"(Commands go to understudyd, or to understudy-agent with --server HOST:7420.

The life of a standby
  understudyctl start vm1 --mode secondary --volume root,disk=/srv/disks/vm1.raw   at the service
  understudyctl --server 127.0.0.1:7420 start vm1 --mode primary                   at the agent
  understudyctl checkpoint vm1                    the standby sees what the primary has written so far
  understudyctl status vm1                        stage, epochs, lag, overlays, jobs, errors
  understudyctl watch vm1                         the same live, with rates and progress, until Ctrl-C
  understudyctl get-error vm1 || page-somebody    3: an error is latched, the other end has been gone for a minute, or handed over
  understudyctl clear-error vm1                   acknowledges errors that are over
  understudyctl history vm1                       checkpoints that can be gone back to
  understudyctl clone vm1 --name drill            a copy to test a failover with, while replication goes on
  understudyctl attach vm1 --qmp VM.qmp --device disk0   replicates a running VM, through QEMU's own mirror
  understudyctl stop vm1 --failover               the standby takes over, at once
  understudyctl verify vm1 --wait                 at the agent: are both disks equal? 3: no
  understudyctl scrub vm1 --wait                  reads everything back; 3: damage was found
  understudyctl remove vm1                        forgets the group; its disks stay

Scripts
  understudyctl --json status | jq -r 'select(.sync_state != "IN_SYNC") | .group'
  epoch=$(understudyctl --json checkpoint vm1 | jq .epoch)
  understudyctl --json watch --refresh 0 | jq -r 'select(.kind == "ERROR") | .group + ": " + .error.message'
  understudyctl --request-id nightly-7 checkpoint vm1   can be run again after a lost answer: one checkpoint

Exit status: 0 done; 1 the call failed ("error: CODE: message" on standard error); 2 wrong usage; 3 get-error found a latched error,
no other end for a minute, or a primary that has handed over, scrub --wait found damage, verify --wait or sync --wait a difference.)";

constexpr char kCommandFooter[] =
    "Flags of every command: --server ADDR, --json, --timeout DURATION, --request-id ID; see "
    "understudyctl --help.";

constexpr char kWatchFooter[] =
    R"(Events: OPENED, REMOVED, STAGE, CHECKPOINT, CONNECTED, DISCONNECTED, INCOMPLETE, COMPLETE, FENCED, ERROR, JOB_BEGUN,
JOB_ENDED. Each is told once and none is left out, also over a lost connection, which is made again while --timeout has not passed.
Where that cannot be kept (the daemon was restarted, or too much has happened meanwhile), a line says GAP, and the status of
every group follows. SNAPSHOT is the status at the beginning, REFRESH changed figures.

  understudyctl watch                             live view of every group of the service
  understudyctl --server HOST:7420 watch          of an agent
  understudyctl watch vm1 >> vm1.log              a line per event
  understudyctl --json watch vm1                  an object per line: understudy.v1.WatchEvent, with the resume_token

Exit status: 0 after Ctrl-C; 1 no daemon could be reached for --timeout, or it refused.

Flags of every command: --server ADDR, --json, --timeout DURATION; see understudyctl --help.)";

constexpr char kVolumeHelp[] =
    "NAME,disk=PATH[,size=BYTES][,create][,top-id=ID][,initial=equal|sync]\n"
    "Once per volume. PATH is as the daemon sees it; a comma in it is written twice.\n"
    "size      a multiple of 512, with K, M, G or T if you like; without it the disk's length\n"
    "create    make a sparse file when the disk is missing; needs size\n"
    "top-id    second name of the NBD export; without it GROUP/NAME\n"
    "initial   equal: the disks are the same now (default); sync: nothing valid yet";

// The words of the program and the arguments that they fill.
class Syntax {
 public:
  explicit Syntax(Arguments& arguments) : in_(arguments) {
    line_.SetFooter(kFooter);
    line_.SetVersion(UNDERSTUDY_VERSION);
    line_.AllowUnknown();
    in_.server = "127.0.0.1:7410";
    const char* const variable = std::getenv("UNDERSTUDY_SERVER");
    in_.usual_server = variable != nullptr ? variable : in_.server;
    line_.Add("--server", in_.server, "ADDR",
              "Daemon to talk to: host:port or unix:/path; with --qmp port 7420",
              {.environment = "UNDERSTUDY_SERVER", .show_default = true, .given = &server_given_});
    line_.AddSwitch("--json", in_.json, "One JSON object per line instead of text for people");
    line_.Add("--timeout", in_.timeout, "DURATION", "Longest time to wait for an answer",
              {.show_default = true});
    line_.Add("--request-id", in_.request_id, "ID",
              "Name of this call: the same call under the same name gets the first one's answer, "
              "for an hour; without it every call is a new one",
              {.given = &in_.request_id_given});
    AddCommands();
  }

  // As CommandLine::Parse().
  absl::StatusOr<bool> Parse(int argc, char** argv) {
    const absl::StatusOr<bool> go_on = line_.Parse(argc, argv);
    if (!server_given_ && !in_.qmp.empty()) in_.server = "127.0.0.1:7420";  // the agent
    in_.command = line_.command();
    in_.unknown = line_.unknown();
    for (const std::string& word : in_.unknown) {
      const std::string nearest = line_.NearestTo(word);
      if (!nearest.empty()) in_.nearest[word] = nearest;
    }
    return go_on;
  }

 private:
  base::CommandLine& Command(const char* name, const char* help) {
    base::CommandLine& command = line_.AddCommand(name, help);
    command.SetFooter(kCommandFooter);
    return command;
  }
  base::CommandLine& GroupCommand(const char* name, const char* help) {
    base::CommandLine& command = Command(name, help);
    command.Add("GROUP", in_.group, " ", "All volumes of one VM");
    return command;
  }

  // A call that was delayed must not hit a group that has been paired anew.
  void AddExpected(base::CommandLine& command) {
    command.Add("--expected-term", in_.expected_term, "N",
                "Refused with FENCED when the group's term is another");
    command.Add("--expected-incarnation", in_.expected_incarnation, "HEX",
                "Likewise; 32 hexadecimal digits, as status --json prints it");
  }

  void AddModeAndVolumes(base::CommandLine& command) {
    command.Add("--mode", in_.mode, "MODE", "primary (at the agent) or secondary (at the service)");
    command.Add("--volume", in_.volumes, "SPEC", kVolumeHelp);
  }

  void AddClone() {
    base::CommandLine& clone = GroupCommand(
        "clone", "A writable, throw-away view of a checkpoint over NBD, while replication goes on");
    clone.Add("--name", in_.name, "NAME", "Name of the new clone: exported as GROUP@NAME/VOLUME");
    clone.Add("--epoch", in_.epoch, "E", "Of history; without it the newest checkpoint",
              {.given = &in_.epoch_given});
    clone.Add("--bytes-max", in_.bytes_max, "BYTES",
              "Limit of what is written into it, beyond which writes fail; without it 1G");
    clone.Add("--ttl", in_.ttl, "DURATION", "It ends by itself after this time; without it 1h");
    clone.AddSwitch("--list", in_.list, "Show the clones of the group");
    clone.Add("--remove", in_.remove, "NAME", "End this clone", {.given = &in_.remove_given});
    AddExpected(clone);
  }

  void AddCommands() {
    AddModeAndVolumes(
        GroupCommand("open", "Declare a group and its volumes; replication starts later"));
    base::CommandLine& start =
        GroupCommand("start", "Begin replication; with --volume: open and start in one");
    AddModeAndVolumes(start);
    start.AddSwitch("--takeover", in_.takeover,
                    "Take the primaryship from another agent, which is fenced");
    AddExpected(start);
    base::CommandLine& checkpoint =
        GroupCommand("checkpoint", "Make the primary's writes so far the state the standby sees");
    checkpoint.AddSwitch("--prepare", in_.prepare,
                         "At the agent: seal an epoch and make it durable; change no view");
    checkpoint.Add("--commit", in_.commit, "EPOCH",
                   "At the service: make the prepared epoch visible", {.given = &in_.commit_given});
    checkpoint.AddSwitch("--abandon", in_.abandon,
                         "At the service: leave a prepared epoch's data to the next one");
    checkpoint.Add("--qmp", in_.qmp, "SOCKET",
                   "At the agent: pause the VM of this QMP socket meanwhile",
                   {.given = &in_.qmp_given});
    AddExpected(checkpoint);
    GroupCommand("get-error",
                 "Show latched errors, since when the other end has not been there, and that the "
                 "primary has handed over; exit status 3: one of them, but of the other end only "
                 "when it was not there for a minute");
    AddExpected(GroupCommand(
        "clear-error",
        "Acknowledge latched errors that are over; refused while the cause of one lasts"));
    base::CommandLine& stop =
        GroupCommand("stop", "End replication after a last checkpoint, or with a failover");
    stop.AddSwitch("--failover", in_.failover, "The standby takes over at its last checkpoint");
    stop.AddSwitch("--received", in_.received,
                   "With --failover: commit all that was received first");
    stop.Add("--epoch", in_.epoch, "E", "With --failover: go back to this epoch of history",
             {.given = &in_.epoch_given});
    stop.AddSwitch("--force", in_.force,
                   "With --epoch: also while a VM is connected; what it has written is dropped");
    AddExpected(stop);
    GroupCommand("history", "The checkpoints that a failover or a clone can choose");
    AddClone();
    base::CommandLine& scrub = GroupCommand(
        "scrub",
        "Verify every extent of a standby's overlays against its checksums, in the background");
    scrub.AddSwitch("--wait", in_.wait,
                    "Show progress until it ends; exit status 3: damage was found");
    AddRate(scrub);
    AddExpected(scrub);
    AddSync();
    base::CommandLine& remove = GroupCommand("remove", "Forget a group; its disks stay");
    remove.AddSwitch("--force", in_.force, "Also after a failed failover: the disk is dead");
    remove.Add("--failback-map", in_.failback_map, "FILE",
               "In stage DONE: keep what may differ from the old primary in "
               "this file, for understudy-agent --failback-map",
               {.given = &in_.failback_map_given});
    AddExpected(remove);
    GroupCommand("status", "Show one group or all: stage, epochs, lag, overlays, jobs, errors");
    AddWatch();
    AddAttach();
    Command("list", "One line per group");
  }

  void AddRate(base::CommandLine& command) {
    command.Add("--bytes-per-second", in_.rate, "N", "Limit, with K, M or G if you like [none]",
                {.given = &in_.rate_given});
  }

  void AddSync() {
    base::CommandLine& sync = GroupCommand(
        "sync", "At the agent: see that the standby gets what it misses; it does so by itself");
    sync.AddSwitch("--wait", in_.wait,
                   "Until the standby is connected, lacks nothing and has a checkpoint; exit "
                   "status 3: a verify has found differences");
    sync.AddSwitch("--full", in_.full,
                   "Compare everything, send what differs; no checkpoint until that has ended");
    sync.AddSwitch("--declare-complete", in_.declare_complete,
                   "Volumes without a disk: a mirror has copied everything (attach does this)");
    AddExpected(sync);
    base::CommandLine& verify = GroupCommand(
        "verify", "At the agent: compare the primary's disks with the standby, while both run");
    verify.AddSwitch("--wait", in_.wait, "Show progress until it ends; exit status 3: they differ");
    AddRate(verify);
    AddExpected(verify);
  }

  base::CommandLine& VolumeCommand(const char* name, const char* help) {
    base::CommandLine& command = Command(name, help);
    command.Add("GROUP", in_.group, " ", "GROUP or GROUP/VOLUME; without it the only one there is");
    command.Add("--qmp", in_.qmp, "SOCKET",
                "What QEMU listens on: -qmp unix:SOCKET,server=on,wait=off");
    return command;
  }

  void AddAttach() {
    base::CommandLine& attach = VolumeCommand(
        "attach",
        "Replicate a running VM's disk: QEMU copies it to an agent and mirrors every write");
    attach.Add("--device", in_.device, "NODE",
               "The disk's node name, as query-named-block-nodes has it");
    attach.Add("--nbd-socket", in_.nbd_socket, "PATH",
               "Where the agent serves NBD; without it as the agent says");
    attach.AddSwitch("--no-wait", in_.no_wait,
                     "Return when the copy has begun; the same command without this completes it");
    base::CommandLine& detach =
        VolumeCommand("detach", "End that; the standby keeps what was written until now");
    detach.AddSwitch("--force", in_.force,
                     "Also when the agent does not answer: what it lacks is lost");
  }

  void AddWatch() {
    base::CommandLine& watch = GroupCommand(
        "watch", "Follow one group or all until Ctrl-C: live on a terminal, else a line per event");
    watch.Add("--refresh", in_.refresh, "DURATION",
              "Figures (bytes, lag, progress) at most this often, from 100ms to 1m; 0: events only",
              {.show_default = true});
    watch.Add("--resume", in_.resume, "TOKEN",
              "Go on after this resume_token of an earlier --json watch instead of beginning "
              "with the status");
    watch.SetFooter(kWatchFooter);
  }

  Arguments& in_;
  base::CommandLine line_{"understudyctl drives replication of a virtual machine's disks.",
                          "understudyctl"};
  bool server_given_ = false;
};

ExitStatus Usage(const std::vector<std::string>& problems, const std::string& command) {
  for (const std::string& problem : problems) std::cerr << "error: " << problem << "\n";
  std::cerr << "usage: understudyctl " << (command.empty() ? "" : command + " ") << "--help\n";
  return kUsage;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  arguments.terminal = Terminal::Usable();
  const absl::StatusOr<bool> go_on = Syntax(arguments).Parse(argc, argv);
  if (!go_on.ok()) return Usage({std::string(go_on.status().message())}, "");
  if (!*go_on) return kDone;
  const auto result = Interpret(arguments);
  if (const auto* problems = std::get_if<std::vector<std::string>>(&result)) {
    return Usage(*problems, arguments.command);
  }
  return Execute(std::get<Invocation>(result), base::Clock::Real(), std::cout, std::cerr);
}

}  // namespace
}  // namespace understudy::ctl

int main(int argc, char** argv) { return understudy::ctl::Main(argc, argv); }
