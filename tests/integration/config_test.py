"""Where the settings of both daemons come from: nothing of a configuration file or of UNDERSTUDY_* variables is ignored or cut."""

import os
import unittest

import lib

# Those that Kubernetes gives every pod beside a Service named understudy or understudy-standby, of understudyctl, of tests.
OF_OTHERS = {
    "UNDERSTUDY_SERVICE_HOST": "10.0.0.1", "UNDERSTUDY_SERVICE_PORT": "7410", "UNDERSTUDY_SERVICE_PORT_METRICS": "7411",
    "UNDERSTUDY_PORT": "tcp://10.0.0.1:7410", "UNDERSTUDY_PORT_7410_TCP": "tcp://10.0.0.1:7410", "UNDERSTUDY_PORT_7410_TCP_PROTO": "tcp",
    "UNDERSTUDY_PORT_7410_TCP_PORT": "7410", "UNDERSTUDY_PORT_7410_TCP_ADDR": "10.0.0.1", "UNDERSTUDY_STANDBY_SERVICE_HOST": "10.0.0.1",
    "UNDERSTUDY_STANDBY_PORT": "tcp://10.0.0.1:7410", "UNDERSTUDY_SERVER": "127.0.0.1:7410", "UNDERSTUDY_SEED": "1",
    "UNDERSTUDY_CRASH_THOROUGH": "1", "UNDERSTUDY_VERSION": "1", "UNDERSTUDY_METRICS_LISTEN": "",
}  # fmt: skip


class ConfigTest(lib.Case):
    def file(self, text):
        path = self.dir / "config"
        path.write_text(text)
        return path

    def refused(self, program, text, environment=None):
        """What a daemon with this file says, which is wrong; nothing is started."""
        done = lib.run(program, "--config", self.file(text), check=False, env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def assert_says(self, program, text, *parts):
        said = self.refused(program, text)
        for part in parts:
            self.assertIn(part, said)

    def test_what_is_not_understood_is_told_with_its_line(self):
        for program, key in ((lib.SERVICE, "metrics-listen"), (lib.AGENT, "metrics-listen")):
            file = self.dir / "config"
            self.assert_says(program, f"\n[daemon]\n{key} = 127.0.0.1:0", f"{file}:2: [daemon]: there are no sections")
            self.assert_says(program, "[default]\nmetric-listen = x", f"{file}:2: unknown key")
            self.assert_says(program, "daemon.x = 1", f'{file}:1: unknown key "daemon.x"')
            self.assert_says(program, "metric-listen = x", f'{file}:1: unknown key "metric-listen", did you mean {key}?')
            self.assert_says(program, f"{key} = a\nlisten = unix:/x\n{key} = b", f"{file}:3: {key} is given twice, before at {file}:1")
            self.assert_says(program, f"{key} = a\n{key} = b", f"{file}:2: {key} is given twice")
            self.assert_says(program, f'{key} = ["a", "b"]', f"{file}:1: {key} has 2 values; it takes one")
            self.assert_says(program, key, f"{file}:1: {key} has no value: {key} = VALUE")
            self.assert_says(program, f"{key} = a ; b", f"{file}:1: a ; b: put the value in quotes")
            said = self.refused(program, "listne = x\n[y]\nz")
            self.assertEqual([f"{file}:{line}: " in said for line in (1, 2, 3)], [True] * 3, said)
        self.assert_says(lib.SERVICE, "disk-dir = /a, /b", "config:1: disk-dir = /a, /b: may be one value or several")
        self.assert_says(lib.AGENT, "window-bytes = many", "config:1: --window-bytes: ", "many")

    def test_a_file_that_cannot_be_read(self):
        for program in (lib.SERVICE, lib.AGENT):
            for path, why in ((self.dir / "missing", "No such file or directory"), (self.dir, "Is a directory")):
                done = lib.run(program, "--config", path, check=False)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(f"--config: {path}: cannot be read: {why}", done.stderr)

    def test_a_misspelt_variable(self):
        for program, wrong, right in (
            (lib.SERVICE, "UNDERSTUDY_HISTROY_EPOCHS", "UNDERSTUDY_HISTORY_EPOCHS"),
            (lib.SERVICE, "UNDERSTUDY_DATADIR", "UNDERSTUDY_DATA_DIR"),
            (lib.AGENT, "UNDERSTUDY_VOLUMES", "UNDERSTUDY_VOLUME"),
            (lib.AGENT, "UNDERSTUDY_CHECKPOINT", "UNDERSTUDY_CHECKPOINT_INTERVAL"),
            (lib.CTL, "UNDERSTUDY_SERVR", "UNDERSTUDY_SERVER"),
        ):
            done = lib.run(program, "list", check=False, env={**os.environ, wrong: "x"})
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"{wrong}: no such variable, did you mean {right}?", done.stderr)

    def test_a_misspelt_flag(self):
        for program in (lib.SERVICE, lib.AGENT):
            done = lib.run(program, "--metrics-lisen=127.0.0.1:0", check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("unknown: --metrics-lisen=127.0.0.1:0, did you mean --metrics-listen?", done.stderr)

    def test_the_version(self):
        version = lib.run(lib.CTL, "--version").stdout
        self.assertRegex(version, r"^\d+\.\d+\.\d+\n$")
        for program in (lib.SERVICE, lib.AGENT):
            self.assertEqual(lib.run(program, "--version").stdout, version)

    def test_both_daemons_from_files_alone(self):
        """Blanks, commas and # in values; lists of every form; variables of others in the environment."""
        data, disks, more = self.dir / "my data # 1", self.dir / "disks, all", self.dir / "more"
        for directory in (disks, more):
            directory.mkdir()
        size = lib.MIB
        service = lib.Service(self)
        service.command = lambda: [lib.SERVICE, "--config", self.dir / "service.conf"]
        (self.dir / "service.conf").write_text(
            f"# the standby\ndata-dir = \"{data}\"  # a comment\ndisk-dir = ['{disks}']\n"
            f"listen = {service.address}\nmetrics-listen = 127.0.0.1:0\ndisk-dir = {more}\nnbd-socket={service.nbd_socket}\n"
        )
        service.spawn(OF_OTHERS).wait_ready()
        service.start_group(f"vda,disk={more / 's'},size={size},create", f"vdb,disk={more / 't'},size={size},create")
        self.assertTrue((data / "index").is_dir())

        agent = lib.Agent(self, service)
        agent.command = lambda: [lib.AGENT, "--config", self.dir / "agent.conf"]
        state = self.dir / "my state"
        (self.dir / "agent.conf").write_text(
            f"server = {service.address}\ngroup = vm1\nnbd-socket = {agent.nbd_socket}\nlisten = {agent.address}\n"
            f'volume = "vda,disk={self.disk("p", size)}"\nmetrics-listen = 127.0.0.1:0\nstate-dir = {state}\n'
            f'volume = [\n  "vdb,disk={self.disk("q", size)}",\n]\nstart\n'
        )
        agent.spawn(OF_OTHERS).wait_ready()
        agent.wait_connected()
        self.assertEqual(agent.export_names(), ["vm1/vda", "vm1/vdb"])
        self.assertTrue(state.is_dir())


if __name__ == "__main__":
    unittest.main(verbosity=2)
