// understudyctl: the command line for people and scripts. Only CLI11 lives here; it takes words apart and checks nothing, so
// that Interpret() can tell all that is wrong at once.
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>

#include "client/ctl/arguments.h"
#include "client/ctl/command.h"
#include "client/ctl/terminal.h"
#include "storage/base/clock.h"

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
  understudyctl get-error vm1 || page-somebody    3: an error is latched
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
or scrub --wait found damage.)";

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
    "Once per volume. PATH is as the daemon sees it and holds no comma.\n"
    "size      a multiple of 512, with K, M, G or T if you like; without it the disk's length\n"
    "create    make a sparse file when the disk is missing; needs size\n"
    "top-id    second name of the NBD export; without it GROUP/NAME\n"
    "initial   equal: the disks are the same now (default); sync: nothing valid yet";

// CLI11's own view of the program, filled into `arguments`.
class CommandLine {
 public:
  explicit CommandLine(Arguments& arguments) : in_(arguments) {
    app_.footer(kFooter);
    app_.set_version_flag("--version", UNDERSTUDY_VERSION);
    app_.allow_extras();
    app_.require_subcommand(0, 1);
    in_.server = "127.0.0.1:7410";
    server_ = app_.add_option("--server", in_.server,
                              "Daemon to talk to: host:port or unix:/path; with --qmp port 7420")
                  ->envname("UNDERSTUDY_SERVER")
                  ->type_name("ADDR")
                  ->capture_default_str();
    app_.add_flag("--json", in_.json, "One JSON object per line instead of text for people");
    app_.add_option("--timeout", in_.timeout, "Longest time to wait for an answer")
        ->type_name("DURATION")
        ->capture_default_str();
    request_id_ =
        app_.add_option("--request-id", in_.request_id,
                        "Name of this call: the same call under the same name gets the first one's "
                        "answer, for an hour; without it every call is a new one")
            ->type_name("ID");
    AddCommands();
  }

  CLI::App& app() { return app_; }

  // After parsing: which command it was, and what is left over.
  void Finish() {
    for (const CLI::App* command : app_.get_subcommands()) in_.command = command->get_name();
    in_.commit_given = commit_->count() > 0;
    for (const CLI::Option* rate : rates_) in_.rate_given |= rate->count() > 0;
    in_.epoch_given = stop_epoch_->count() + clone_epoch_->count() > 0;
    in_.remove_given = remove_->count() > 0;
    in_.failback_map_given = failback_map_->count() > 0;
    in_.qmp_given = checkpoint_qmp_->count() > 0;
    if (server_->count() == 0 && !in_.qmp.empty()) in_.server = "127.0.0.1:7420";  // the agent
    in_.request_id_given = request_id_->count() > 0;
    in_.unknown = app_.remaining(/*recurse=*/true);
  }

 private:
  CLI::App& Command(const char* name, const char* help) {
    CLI::App* const command = app_.add_subcommand(name, help);
    command->allow_extras();
    command->fallthrough();
    command->footer(kCommandFooter);
    return *command;
  }
  CLI::App& GroupCommand(const char* name, const char* help) {
    CLI::App& command = Command(name, help);
    command.add_option("GROUP", in_.group, "All volumes of one VM")->type_name(" ");
    return command;
  }

  // A call that was delayed must not hit a group that has been paired anew.
  void AddExpected(CLI::App& command) {
    command
        .add_option("--expected-term", in_.expected_term,
                    "Refused with FENCED when the group's term is another")
        ->type_name("N");
    command
        .add_option("--expected-incarnation", in_.expected_incarnation,
                    "Likewise; 32 hexadecimal digits, as status --json prints it")
        ->type_name("HEX");
  }

  void AddModeAndVolumes(CLI::App& command) {
    command.add_option("--mode", in_.mode, "primary (at the agent) or secondary (at the service)")
        ->type_name("MODE");
    command.add_option("--volume", in_.volumes, kVolumeHelp)
        ->type_name("SPEC")
        ->allow_extra_args(false)
        ->take_all();
  }

  void AddClone() {
    CLI::App& clone = GroupCommand(
        "clone", "A writable, throw-away view of a checkpoint over NBD, while replication goes on");
    clone.add_option("--name", in_.name, "Name of the new clone: exported as GROUP@NAME/VOLUME")
        ->type_name("NAME");
    clone_epoch_ =
        clone.add_option("--epoch", in_.epoch, "Of history; without it the newest checkpoint")
            ->type_name("E");
    clone
        .add_option("--bytes-max", in_.bytes_max,
                    "Limit of what is written into it, beyond which writes fail; without it 1G")
        ->type_name("BYTES");
    clone.add_option("--ttl", in_.ttl, "It ends by itself after this time; without it 1h")
        ->type_name("DURATION");
    clone.add_flag("--list", in_.list, "Show the clones of the group");
    remove_ = clone.add_option("--remove", in_.remove, "End this clone")->type_name("NAME");
    AddExpected(clone);
  }

  void AddCommands() {
    AddModeAndVolumes(
        GroupCommand("open", "Declare a group and its volumes; replication starts later"));
    CLI::App& start =
        GroupCommand("start", "Begin replication; with --volume: open and start in one");
    AddModeAndVolumes(start);
    start.add_flag("--takeover", in_.takeover,
                   "Take the primaryship from another agent, which is fenced");
    AddExpected(start);
    CLI::App& checkpoint =
        GroupCommand("checkpoint", "Make the primary's writes so far the state the standby sees");
    checkpoint.add_flag("--prepare", in_.prepare,
                        "At the agent: seal an epoch and make it durable; change no view");
    commit_ =
        checkpoint
            .add_option("--commit", in_.commit, "At the service: make the prepared epoch visible")
            ->type_name("EPOCH");
    checkpoint.add_flag("--abandon", in_.abandon,
                        "At the service: leave a prepared epoch's data to the next one");
    checkpoint_qmp_ =
        checkpoint
            .add_option("--qmp", in_.qmp, "At the agent: pause the VM of this QMP socket meanwhile")
            ->type_name("SOCKET");
    AddExpected(checkpoint);
    GroupCommand("get-error", "Show latched errors; exit status 3 when there are any");
    CLI::App& stop =
        GroupCommand("stop", "End replication after a last checkpoint, or with a failover");
    stop.add_flag("--failover", in_.failover, "The standby takes over at its last checkpoint");
    stop.add_flag("--received", in_.received,
                  "With --failover: commit all that was received first");
    stop_epoch_ =
        stop.add_option("--epoch", in_.epoch, "With --failover: go back to this epoch of history")
            ->type_name("E");
    stop.add_flag("--force", in_.force,
                  "With --epoch: also while a VM is connected; what it has written is dropped");
    AddExpected(stop);
    GroupCommand("history", "The checkpoints that a failover or a clone can choose");
    AddClone();
    CLI::App& scrub = GroupCommand(
        "scrub",
        "Verify every extent of a standby's overlays against its checksums, in the background");
    scrub.add_flag("--wait", in_.wait,
                   "Show progress until it ends; exit status 3: damage was found");
    AddRate(scrub);
    AddExpected(scrub);
    AddSync();
    CLI::App& remove = GroupCommand("remove", "Forget a group; its disks stay");
    remove.add_flag("--force", in_.force, "Also after a failed failover: the disk is dead");
    failback_map_ = remove
                        .add_option("--failback-map", in_.failback_map,
                                    "In stage DONE: keep what may differ from the old primary in "
                                    "this file, for understudy-agent --failback-map")
                        ->type_name("FILE");
    AddExpected(remove);
    GroupCommand("status", "Show one group or all: stage, epochs, lag, overlays, jobs, errors");
    AddWatch();
    AddAttach();
    Command("list", "One line per group");
  }

  void AddRate(CLI::App& command) {
    rates_.push_back(
        command
            .add_option("--bytes-per-second", in_.rate, "Limit, with K, M or G if you like [none]")
            ->type_name("N"));
  }

  void AddSync() {
    CLI::App& sync = GroupCommand(
        "sync", "At the agent: see that the standby gets what it misses; it does so by itself");
    sync.add_flag("--wait", in_.wait, "Show progress until nothing is missing");
    sync.add_flag("--full", in_.full,
                  "Compare everything, send what differs; no checkpoint until that has ended");
    sync.add_flag("--declare-complete", in_.declare_complete,
                  "Volumes without a disk: a mirror has copied everything (attach does this)");
    AddExpected(sync);
    CLI::App& verify = GroupCommand(
        "verify", "At the agent: compare the primary's disks with the standby, while both run");
    verify.add_flag("--wait", in_.wait, "Show progress until it ends; exit status 3: they differ");
    AddRate(verify);
    AddExpected(verify);
  }

  CLI::App& VolumeCommand(const char* name, const char* help) {
    CLI::App& command = Command(name, help);
    command
        .add_option("GROUP", in_.group, "GROUP or GROUP/VOLUME; without it the only one there is")
        ->type_name(" ");
    command
        .add_option("--qmp", in_.qmp, "What QEMU listens on: -qmp unix:SOCKET,server=on,wait=off")
        ->type_name("SOCKET");
    return command;
  }

  void AddAttach() {
    CLI::App& attach = VolumeCommand(
        "attach",
        "Replicate a running VM's disk: QEMU copies it to an agent and mirrors every write");
    attach
        .add_option("--device", in_.device,
                    "The disk's node name, as query-named-block-nodes has it")
        ->type_name("NODE");
    attach
        .add_option("--nbd-socket", in_.nbd_socket,
                    "Where the agent serves NBD; without it as the agent says")
        ->type_name("PATH");
    attach.add_flag("--no-wait", in_.no_wait,
                    "Return when the copy has begun; the same command without this completes it");
    CLI::App& detach =
        VolumeCommand("detach", "End that; the standby keeps what was written until now");
    detach.add_flag("--force", in_.force,
                    "Also when the agent does not answer: what it lacks is lost");
  }

  void AddWatch() {
    CLI::App& watch = GroupCommand(
        "watch", "Follow one group or all until Ctrl-C: live on a terminal, else a line per event");
    watch
        .add_option(
            "--refresh", in_.refresh,
            "Figures (bytes, lag, progress) at most this often, from 100ms to 1m; 0: events only")
        ->type_name("DURATION")
        ->capture_default_str();
    watch
        .add_option("--resume", in_.resume,
                    "Go on after this resume_token of an earlier --json watch instead of beginning "
                    "with the status")
        ->type_name("TOKEN");
    watch.footer(kWatchFooter);
  }

  Arguments& in_;
  CLI::App app_{"understudyctl drives replication of a virtual machine's disks.", "understudyctl"};
  CLI::Option* server_ = nullptr;
  CLI::Option* checkpoint_qmp_ = nullptr;
  CLI::Option* request_id_ = nullptr;
  CLI::Option* commit_ = nullptr;
  CLI::Option* stop_epoch_ = nullptr;
  CLI::Option* clone_epoch_ = nullptr;
  CLI::Option* remove_ = nullptr;
  CLI::Option* failback_map_ = nullptr;
  std::vector<CLI::Option*> rates_;
};

ExitStatus Usage(const std::vector<std::string>& problems, const std::string& command) {
  for (const std::string& problem : problems) std::cerr << "error: " << problem << "\n";
  std::cerr << "usage: understudyctl " << (command.empty() ? "" : command + " ") << "--help\n";
  return kUsage;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  arguments.terminal = Terminal::Usable();
  CommandLine line(arguments);
  try {
    line.app().parse(argc, argv);
    line.Finish();
  } catch (const CLI::Success& help_or_version) {
    return line.app().exit(help_or_version);
  } catch (const CLI::ParseError& malformed) {
    return Usage({malformed.what()}, "");
  }
  const auto result = Interpret(arguments);
  if (const auto* problems = std::get_if<std::vector<std::string>>(&result)) {
    return Usage(*problems, arguments.command);
  }
  return Execute(std::get<Invocation>(result), base::Clock::Real(), std::cout, std::cerr);
}

}  // namespace
}  // namespace understudy::ctl

int main(int argc, char** argv) { return understudy::ctl::Main(argc, argv); }
