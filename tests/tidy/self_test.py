#!/usr/bin/env python3
"""Plants one violation of each rule in a tree of its own and sees tidy.py find exactly that."""

import os
import subprocess
import sys
import tempfile
import unittest

import cpp_text
import tidy

TIDY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tidy.py")


def header(path, body=""):
    guard = "UNDERSTUDY_" + path.replace("/", "_").replace(".", "_").upper() + "_"
    return f"// {path}\n#ifndef {guard}\n#define {guard}\n{body}\n#endif  // {guard}\n"


GOOD = {
    ".clang-format": "BasedOnStyle: Google\nColumnLimit: 100\n",
    "storage/base/a.h": header("storage/base/a.h"),
    "storage/b.h": header("storage/b.h", '#include <string>\n\n#include "storage/base/a.h"'),
    "storage/b.cc": '#include "storage/b.h"\n\n#include <rocksdb/db.h>\n',
    "server/c.cc": '#include "storage/b.h"\n',
    "server/rpc/d.cc": '#include <grpcpp/grpcpp.h>\n\n#include "proto/e.h"\n',
    "server/main.cc": '#include "storage/base/command_line.h"\n',
    "storage/base/command_line.cc": '#include <CLI/CLI.hpp>\n',
    "storage/base/command_line.h": header("storage/base/command_line.h"),
    "proto/e.h": header("proto/e.h", '#include "understudy/v1/replication.pb.h"'),
    "client/f.cc": '#include "storage/base/a.h"\n',
    "tests/g_test.cc": '#include <rocksdb/db.h>\n\n#include "server/c.h"\n\nnamespace understudy::server::g_test {\n',
    "CMakeLists.txt": "set(UNDERSTUDY_COMMON_HEADERS\n  <map> <string>)\n",
    "storage/base/CMakeLists.txt": "understudy_library(base HDRS a.h command_line.h SRCS command_line.cc)",
    "storage/CMakeLists.txt": "understudy_library(storage SRCS b.cc HDRS b.h)",
    "server/CMakeLists.txt": "add_executable(d main.cc c.cc rpc/d.cc)",
    "proto/CMakeLists.txt": "understudy_library(proto HDRS e.h)",
    "client/CMakeLists.txt": "understudy_library(client SRCS f.cc)",
    "tests/CMakeLists.txt": "understudy_test(g_test SRCS g_test.cc)",
}


class TidyTest(unittest.TestCase):
    def run_check(self, check, **planted):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**GOOD, **planted.get("files", {})}.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(text)
            return subprocess.run([sys.executable, TIDY, check, "--root", root], capture_output=True, text=True, check=False)

    def assert_finds(self, check, path, text, part):
        good = self.run_check(check)
        self.assertEqual(good.returncode, 0, good.stdout)
        result = self.run_check(check, files={path: text})
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn(f"{path}", result.stdout)
        self.assertIn(part, result.stdout)
        self.assertIn(" 1 problems", result.stdout)

    def test_an_arrow_upwards_is_found(self):
        self.assert_finds("arrows", "storage/base/x.cc", '#include "storage/b.h"\n', "may not use storage")

    def test_a_client_that_uses_storage_is_found(self):
        self.assert_finds("arrows", "client/x.cc", '#include "storage/b.h"\n', "client may not use storage")

    def test_a_core_that_uses_the_protocol_is_found(self):
        self.assert_finds("arrows", "server/x.cc", '#include "proto/e.h"\n', "server may not use proto")

    def test_grpc_in_a_core_is_found(self):
        self.assert_finds("third_party", "server/x.cc", "#include <grpcpp/grpcpp.h>\n", "gRPC")

    def test_generated_code_in_a_core_is_found(self):
        self.assert_finds("third_party", "client/x.cc", '#include "understudy/v1/replication.pb.h"\n', "gRPC")

    def test_rocksdb_in_base_is_found(self):
        self.assert_finds("third_party", "storage/base/x.cc", "#include <rocksdb/db.h>\n", "RocksDB")

    def test_cli11_in_a_main_is_found(self):
        self.assert_finds("third_party", "client/ctl/main.cc", "#include <CLI/CLI.hpp>\n", "CLI11")

    def test_another_guard_is_found(self):
        self.assert_finds("headers", "client/x.h", "// client/x.h\n#pragma once\n", "UNDERSTUDY_CLIENT_X_H_")

    def test_a_header_that_does_not_say_what_it_is_is_found(self):
        self.assert_finds("headers", "client/x.h", header("client/x.h").replace("// client/x.h\n", ""), "does not begin")

    def test_an_unlisted_test_is_found(self):
        self.assert_finds("listed", "tests/x_test.cc", "\n", "in no CMakeLists.txt")

    def test_a_name_that_ends_like_a_listed_one_is_found(self):
        self.assert_finds("listed", "client/ef.cc", "\n", "client/ef.cc: in no CMakeLists.txt")

    def test_a_test_without_its_namespace_is_found(self):
        self.assert_finds("namespaces", "tests/x_test.cc", "namespace understudy::y_test {\n", "no namespace understudy::...::x_test")
        self.assert_finds("namespaces", "tests/x_test.cc", "namespace understudy {\n", "no namespace understudy::...::x_test")

    def test_a_long_file_is_found(self):
        self.assert_finds("size", "client/x.cc", "\n" * 601, "601 lines")

    def test_a_long_function_is_found(self):
        self.assert_finds("functions", "client/x.cc", "int F() {\n" + "  G();\n" * 70 + "}\n", "F has 72 lines")

    def test_the_ratchet_tightens(self):
        files = {"client/x.cc": "int F() {\n" + "  G();\n" * 78 + "}\n",
                 "tests/tidy/long_functions.txt": "# comment\nclient/x.cc F 80\n"}
        self.assertEqual(self.run_check("functions", files=files).returncode, 0)
        files["tests/tidy/long_functions.txt"] = "client/x.cc F 90\n"
        self.assertIn("only 80 lines now", self.run_check("functions", files=files).stdout)
        files["tests/tidy/long_functions.txt"] = "client/x.cc F 80\nclient/x.cc Gone 80\n"
        self.assertIn("is no more", self.run_check("functions", files=files).stdout)

    def test_unfinished_work_is_found(self):
        self.assert_finds("words", "client/x.cc", "// TO" + "DO: later\n", "unfinished")

    def test_absl_mutex_is_found(self):
        self.assert_finds("words", "client/x.cc", "absl::Mutex mutex; // absl::Mutex\n", "invisible")

    def test_a_channel_that_is_made_elsewhere_is_found(self):
        for text in ("auto c = grpc::CreateChannel(a, b);\n", "grpc::ChannelArguments arguments;\n"):
            self.assert_finds("channels", "client/rpc/x.cc", text, "use proto::MakeChannel()")
        self.assertEqual(self.run_check("channels", files={"proto/grpc_channel.cc": "grpc::CreateCustomChannel(a, b, c);\n"}).returncode, 0)

    def test_a_log_line_under_a_lock_is_found(self):
        guard = "void F() {\n  {\n    base::MutexLock lock(mutex_);\n    if (x) {\n      base::LogInfo(\"a\");\n    }\n  }\n  base::LogInfo(\"b\");\n}\n"
        self.assert_finds("locks", "client/x.cc", guard, "client/x.cc:5: logs under a lock")
        declared = "void FLocked(int x) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);\n"
        function = "void FLocked(int x) {\n  mutex_.Unlock();\n  base::LogInfo(\"a\");\n  mutex_.Lock();\n  base::LogError(\"b\");\n}\n"
        self.assert_finds("locks", "client/x.cc", declared + function, "client/x.cc:6: logs under a lock")
        self.assertEqual(self.run_check("locks", files={"client/x.cc": function.replace("FLocked", "F")}).returncode, 0)

    def test_durations_by_the_wall_clock_are_found(self):
        for code in ("auto end = absl::Now() + wait;", "call.set_deadline(std::chrono::system_clock::now() + wait);",
                     "auto age = clock_.Now() - stored;", "auto age = stored - parts_.clock->Now();", "until = time(nullptr);"):
            self.assert_finds("clocks", "client/x.cc", code + "  // absl::Now()\n", "client/x.cc:1: the wall clock jumps")
        self.assert_finds("clocks", "proto/watch_stream.cc", "\n", "no more: remove it")
        self.assertEqual(self.run_check("clocks", files={"client/x.cc": "auto at = clock_.Now();  // for the log\n"}).returncode, 0)

    def test_misformatted_code_is_found(self):
        if self.run_check("format").returncode == 77:
            self.skipTest("no clang-format")
        self.assert_finds("format", "client/x.cc", "int   x;\n", "not as clang-format has it")

    def assert_too_heavy(self, files, path, part):
        result = self.run_check("weight", files=files)
        if result.returncode == 77:
            self.skipTest(result.stdout)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn(f"{path}: {part}", result.stdout)
        self.assertIn(" 1 problems", result.stdout)

    def test_light_headers_and_heavy_sources_are_none_of_its_business(self):
        result = self.run_check("weight")
        self.assertIn(result.returncode, (0, 77), result.stdout + result.stderr)

    def test_grpc_behind_two_headers_is_found(self):
        files = {"grpcpp/x.h": "\n", "server/rpc/x.h": header("server/rpc/x.h", "#include <grpcpp/x.h>"),
                 "server/x.h": header("server/x.h", '#include "server/rpc/x.h"')}
        self.assert_too_heavy(files, "server/x.h", "reads grpcpp/x.h")

    def test_messages_in_a_header_are_found(self):
        files = {"understudy/v1/x.pb.h": "\n", "client/x.h": header("client/x.h", '#include "understudy/v1/x.pb.h"')}
        self.assert_too_heavy(files, "client/x.h", "reads understudy/v1/x.pb.h")

    def test_rocksdb_in_a_header_is_found(self):
        files = {"rocksdb/x.h": "\n", "storage/x.h": header("storage/x.h", "#include <rocksdb/x.h>")}
        self.assert_too_heavy(files, "storage/x.h", "reads rocksdb/x.h")

    def test_a_heavy_header_is_found(self):
        lines = tidy.WEIGHT_MAX
        files = {"client/x.h": header("client/x.h", "int x;\n" * (lines + 1))}
        self.assert_too_heavy(files, "client/x.h", "reads ")

    def test_the_common_headers_weigh_nothing(self):
        files = {"client/x.h": header("client/x.h", "#include <map>\n" + "int x;\n" * (tidy.WEIGHT_MAX - 10))}
        self.assertIn(self.run_check("weight", files=files).returncode, (0, 77))

    def test_a_header_that_lacks_an_include_is_found(self):
        files = {"client/x.h": header("client/x.h", '#include "client/none.h"')}
        self.assert_too_heavy(files, "client/x.h", "cannot be read alone")


class FunctionsTest(unittest.TestCase):
    def names(self, text):
        return [(name, lines) for name, _, lines in cpp_text.functions(text)]

    def test_literals_and_comments_do_not_count(self):
        text = 'void F() {\n  G("}", \'}\', 10\'000, R"(\n}\n)");  // }\n  /* } */\n}\n'
        self.assertEqual(self.names(text), [("F", 6)])

    def test_types_and_namespaces_are_no_functions(self):
        text = "namespace a {\nclass B {\n  int F() const {\n    return 1;\n  }\n};\n}  // namespace a\n"
        self.assertEqual(self.names(text), [("F", 3)])

    def test_long_signatures_belong_to_the_function(self):
        text = "absl::Status A::F(int a,\n                  int b)\n    : x_(a) {\n  for (;;) {\n  }\n}\n"
        self.assertEqual(self.names(text), [("A::F", 6)])

    def test_templates_tests_and_lambdas(self):
        text = ("template <typename T>\nstd::vector<T> G(T t) {\n  auto f = [](int x) { return x; };\n  return {t};\n}\n"
                "TEST_F(ATest, DoesIt) {\n  F();\n}\n")
        self.assertEqual(self.names(text), [("G", 5), ("ATest.DoesIt", 3)])


if __name__ == "__main__":
    unittest.main()
