// understudyctl: the command line for people and scripts. Only CLI11 lives here; it takes words apart and checks nothing, so
// that Interpret() can tell all that is wrong at once.
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>

#include "client/ctl/arguments.h"
#include "client/ctl/command.h"
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
  understudyctl get-error vm1 || page-somebody    3: an error is latched
  understudyctl stop vm1 --failover               the standby takes over, at once
  understudyctl remove vm1                        forgets the group; its disks stay

Scripts
  understudyctl --json status | jq -r 'select(.sync_state != "IN_SYNC") | .group'
  epoch=$(understudyctl --json checkpoint vm1 | jq .epoch)

Exit status: 0 done; 1 the call failed ("error: CODE: message" on standard error); 2 wrong usage; 3 get-error found a latched error.)";

constexpr char kCommandFooter[] =
    "Flags of every command: --server ADDR, --json, --timeout DURATION; see understudyctl --help.";

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
    app_.add_option("--server", in_.server, "Daemon to talk to: host:port or unix:/path")
        ->envname("UNDERSTUDY_SERVER")
        ->type_name("ADDR")
        ->capture_default_str();
    app_.add_flag("--json", in_.json, "One JSON object per line instead of text for people");
    app_.add_option("--timeout", in_.timeout, "Longest time to wait for an answer")
        ->type_name("DURATION")
        ->capture_default_str();
    AddCommands();
  }

  CLI::App& app() { return app_; }

  // After parsing: which command it was, and what is left over.
  void Finish() {
    for (const CLI::App* command : app_.get_subcommands()) in_.command = command->get_name();
    in_.commit_given = commit_->count() > 0;
    in_.epoch_given = epoch_->count() > 0;
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

  void AddModeAndVolumes(CLI::App& command) {
    command.add_option("--mode", in_.mode, "primary (at the agent) or secondary (at the service)")
        ->type_name("MODE");
    command.add_option("--volume", in_.volumes, kVolumeHelp)
        ->type_name("SPEC")
        ->allow_extra_args(false)
        ->take_all();
  }

  void AddCommands() {
    AddModeAndVolumes(
        GroupCommand("open", "Declare a group and its volumes; replication starts later"));
    CLI::App& start =
        GroupCommand("start", "Begin replication; with --volume: open and start in one");
    AddModeAndVolumes(start);
    start.add_flag("--takeover", in_.takeover,
                   "Take the primaryship from another agent, which is fenced");
    CLI::App& checkpoint =
        GroupCommand("checkpoint", "Make the primary's writes so far the state the standby sees");
    checkpoint.add_flag("--prepare", in_.prepare,
                        "Seal an epoch and make it durable; change no view");
    commit_ = checkpoint.add_option("--commit", in_.commit, "Make a prepared epoch visible")
                  ->type_name("EPOCH");
    checkpoint.add_flag("--abandon", in_.abandon, "Leave a prepared epoch's data to the next one");
    GroupCommand("get-error", "Show latched errors; exit status 3 when there are any");
    CLI::App& stop =
        GroupCommand("stop", "End replication after a last checkpoint, or with a failover");
    stop.add_flag("--failover", in_.failover, "The standby takes over at its last checkpoint");
    stop.add_flag("--received", in_.received,
                  "With --failover: commit all that was received first");
    epoch_ =
        stop.add_option("--epoch", in_.epoch, "With --failover: take over at this committed epoch")
            ->type_name("N");
    GroupCommand("remove", "Forget a group; its disks stay")
        .add_flag("--force", in_.force, "Also after a failed failover: the disk is dead");
    GroupCommand("status", "Show one group or all: stage, epochs, lag, overlays, jobs, errors");
    Command("list", "One line per group");
  }

  Arguments& in_;
  CLI::App app_{"understudyctl drives replication of a virtual machine's disks.", "understudyctl"};
  CLI::Option* commit_ = nullptr;
  CLI::Option* epoch_ = nullptr;
};

ExitStatus Usage(const std::vector<std::string>& problems, const std::string& command) {
  for (const std::string& problem : problems) std::cerr << "error: " << problem << "\n";
  std::cerr << "usage: understudyctl " << (command.empty() ? "" : command + " ") << "--help\n";
  return kUsage;
}

int Main(int argc, char** argv) {
  Arguments arguments;
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
