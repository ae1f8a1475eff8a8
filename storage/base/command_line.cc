#include "storage/base/command_line.h"

#include <deque>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include <CLI/CLI.hpp>

#include "storage/base/nearest.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::base {

struct KeptSetting {
  Setting setting;
  std::vector<std::string> values = {};
};

namespace {

void AddSetting(CLI::App& app, KeptSetting& kept) {
  const auto& [name, help, shape] = kept.setting;
  const std::string environment = absl::StrReplaceAll(absl::AsciiStrToUpper(name), {{"-", "_"}});
  CLI::Option* const option = app.add_option("--" + name, kept.values, help);
  option->envname("UNDERSTUDY_" + environment)->type_name("TEXT");
  option->allow_extra_args(false);
  if (shape == Setting::kMany) {
    option->take_all();
  } else if (shape == Setting::kOne) {
    option->expected(1)->take_last();
  }
}

// A word that is no UTF-8 is told with the flag before it.
absl::Status CheckWords(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const bool of_a_flag = i > 1 && argv[i - 1][0] == '-' && argv[i][0] != '-';
    RETURN_IF_ERROR(CheckUtf8(of_a_flag ? argv[i - 1] : absl::StrCat("argument ", i), argv[i]));
  }
  return absl::OkStatus();
}

// A switch may stand alone on the command line: CLI11 would take the next argument for its value.
std::vector<std::string> SpellSwitches(int argc, char** argv,
                                       const std::deque<KeptSetting>& settings) {
  std::vector<std::string> words(argv, argv + argc);
  for (std::string& word : words) {
    for (const auto& [setting, _] : settings) {
      if (setting.shape == Setting::kSwitch && word == "--" + setting.name) word += "=true";
    }
  }
  return words;
}

}  // namespace

struct CommandLine::Impl {
  CLI::App* app;
  std::unique_ptr<CLI::App> program = {};  // owns `app`; none in a command: the program's owns that
  std::vector<std::pair<const CLI::Option*, bool*>> given = {};
  std::vector<std::unique_ptr<CommandLine>> commands = {};
  std::deque<KeptSetting> settings = {};  // they stay where they are: CLI11 points to the values
  std::vector<std::string> unknown = {};

  void TellGiven() const {
    for (const auto& [option, told] : given) *told |= option->count() > 0;
    for (const auto& command : commands) command->impl_->TellGiven();
  }
};

CommandLine::CommandLine(std::string description, std::string name)
    : impl_(new Impl{.app = new CLI::App(std::move(description), std::move(name))}) {
  impl_->program.reset(impl_->app);
}
CommandLine::CommandLine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CommandLine::~CommandLine() = default;

void CommandLine::Add(const std::string& name, std::string& value, const std::string& type,
                      const std::string& help, const FlagExtras& extras) {
  CLI::Option* const option = impl_->app->add_option(name, value, help)->type_name(type);
  option->envname(extras.environment)->required(extras.required);
  if (extras.show_default) option->capture_default_str();
  if (extras.given != nullptr) impl_->given.emplace_back(option, extras.given);
}

void CommandLine::Add(const std::string& name, std::vector<std::string>& values,
                      const std::string& type, const std::string& help) {
  CLI::Option* const option = impl_->app->add_option(name, values, help)->type_name(type);
  option->allow_extra_args(false)->take_all();
}

void CommandLine::AddSwitch(const std::string& name, bool& value, const std::string& help) {
  impl_->app->add_flag(name, value, help);
}

void CommandLine::AddSettings(std::vector<Setting> settings) {
  for (Setting& setting : settings) {
    AddSetting(*impl_->app, impl_->settings.emplace_back(KeptSetting{std::move(setting)}));
  }
  impl_->app->set_config(
      "--config", "",
      "Configuration file (TOML or INI); flags beat it, it beats UNDERSTUDY_* variables");
  impl_->app->allow_config_extras(CLI::config_extras_mode::capture);
  AllowUnknown();
}

CommandLine& CommandLine::AddCommand(const std::string& name, const std::string& help) {
  impl_->app->require_subcommand(0, 1);
  CLI::App* const command = impl_->app->add_subcommand(name, help)->fallthrough();
  impl_->commands.emplace_back(new CommandLine(std::unique_ptr<Impl>(new Impl{.app = command})));
  return *impl_->commands.back();
}

void CommandLine::SetFooter(const std::string& footer) { impl_->app->footer(footer); }

void CommandLine::SetVersion(const std::string& version) {
  impl_->app->set_version_flag("--version", version);
}

void CommandLine::AllowUnknown() { impl_->app->allow_extras(); }

absl::StatusOr<bool> CommandLine::Parse(int argc, char** argv) {
  RETURN_IF_ERROR(CheckWords(argc, argv));
  const std::vector<std::string> words = SpellSwitches(argc, argv, impl_->settings);
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  try {
    impl_->app->parse(argc, pointers.data());
  } catch (const CLI::Success& help_or_version) {
    impl_->app->exit(help_or_version);
    return false;
  } catch (const CLI::ParseError& malformed) {
    return absl::InvalidArgumentError(malformed.what());
  }
  impl_->TellGiven();
  impl_->unknown = impl_->app->remaining(/*recurse=*/true);
  return true;
}

std::string CommandLine::command() const {
  const std::vector<CLI::App*> given = impl_->app->get_subcommands();
  return given.empty() ? "" : given.back()->get_name();
}

std::string CommandLine::NearestTo(const std::string& word) const {
  const auto all = [](const CLI::App*) { return true; };
  std::vector<std::string> known;
  if (!absl::StartsWith(word, "-")) {
    for (const CLI::App* const command : impl_->app->get_subcommands(all)) {
      known.push_back(command->get_name());
    }
    return Nearest(word, known);
  }
  std::vector<const CLI::App*> lines = {impl_->app};
  for (const CLI::App* const given : impl_->app->get_subcommands()) lines.push_back(given);
  for (const CLI::App* const line : lines) {
    for (const CLI::Option* const option : line->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  }
  return Nearest(word.substr(0, word.find('=')), known);
}

const std::vector<std::string>& CommandLine::unknown() const { return impl_->unknown; }

std::vector<std::pair<std::string, std::string>> CommandLine::GivenSettings() const {
  std::vector<std::pair<std::string, std::string>> given;
  for (const auto& [setting, values] : impl_->settings) {
    for (const std::string& value : values) given.emplace_back(setting.name, value);
  }
  return given;
}

}  // namespace understudy::base
