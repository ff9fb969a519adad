#include "cli/cluster/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/cat.h"

namespace baton::cli {
namespace {

std::string errors_of(const std::string& spec) {
  const auto m = parse_manifest("c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n", spec));
  return m.ok() ? "" : std::string(m.status().message());
}

TEST(Manifest, NamingOnlyAModelIsEnough) {
  const auto m =
      parse_manifest("/d/c.yaml", "apiVersion: baton/v1\nkind: Cluster\nspec:\n  model: {source: m.gguf}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->model_source, "/d/m.gguf") << "relative to the file";
  ASSERT_EQ(m->pools.size(), 1u);
  EXPECT_EQ(m->pools[0].role, WorkerRole::kAny);
  EXPECT_EQ(m->gateway.host, "127.0.0.1");
  EXPECT_GE(m->gateway.connections_per_address, 1024) << "a reverse proxy is one address";
}

TEST(Manifest, ShippedFilesAreGoodAndSurviveWriting) {
  const char* source = std::getenv("BATON_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "run by ctest";
  int files = 0;
  std::vector<std::string> paths = {cat(source, "/deploy/docker/cluster.yaml")};
  for (const auto& entry : std::filesystem::directory_iterator(cat(source, "/deploy/manifests")))
    if (entry.path().extension() == ".yaml") paths.push_back(entry.path().string());
  for (const std::string& path : paths) {
    const auto m = read_manifest(path);
    ASSERT_TRUE(m.ok()) << m.status();
    const auto again = parse_manifest("again.yaml", to_yaml(*m));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(to_yaml(*again), to_yaml(*m));
    ++files;
  }
  EXPECT_GE(files, 4);
}

// Whatever a name or a path has in it, what is written is read as the same.
TEST(Manifest, OddWordsSurviveWriting) {
  ClusterManifest m;
  m.model_source = "/models/a\tb\n\x01\x7f\"\\ \xc3\xa9.gguf";
  for (const char* name : {"null", "1.0", "true", "1e3", "0x10"}) m.pools.push_back({.name = name});
  const auto again = parse_manifest("again.yaml", to_yaml(m));
  ASSERT_TRUE(again.ok()) << again.status().message() << to_yaml(m);
  EXPECT_EQ(again->model_source, m.model_source);
  ASSERT_EQ(again->pools.size(), m.pools.size());
  for (size_t i = 0; i < m.pools.size(); ++i) EXPECT_EQ(again->pools[i].name, m.pools[i].name);
}

// Everything has a deadline of its own, and those of workers and hand-overs are ten minutes.
TEST(Manifest, RequestsMayNotTakeLongerThanWorkersWait) {
  const auto with = [](const std::string& time) {
    return parse_manifest("c.yaml",
                          "apiVersion: baton/v1\nkind: Cluster\nspec: {model: {source: /m.gguf}, "
                          "gateway: {limits: {requestTime: " +
                              time + "}}}\n");
  };
  EXPECT_TRUE(with("600s").ok()) << with("600s").status();
  const auto longer = with("601s");
  EXPECT_FALSE(longer.ok());
  EXPECT_THAT(std::string(longer.status().message()), testing::HasSubstr("requestTime"));
}

TEST(Manifest, TheFilesForSeveralMachinesAreGood) {
  const char* source = std::getenv("BATON_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "run by ctest";
  const auto three = read_manifest(cat(source, "/deploy/manifests/three_hosts.yaml"));
  ASSERT_TRUE(three.ok()) << three.status();
  ASSERT_EQ(three->pools.size(), 2u);
  EXPECT_EQ(three->control.join_address(), "10.0.0.1:8001");
  EXPECT_TRUE(three->control.tls.has_value());
  EXPECT_EQ(three->pools[1].host_of(0, 0), "10.0.0.3");
  const auto kubernetes = read_manifest(cat(source, "/deploy/kubernetes/cluster.yaml"));
  ASSERT_TRUE(kubernetes.ok()) << kubernetes.status();
  EXPECT_EQ(kubernetes->control.join_address(), "baton-coordinator:8001");
  EXPECT_EQ(kubernetes->control.tls->worker.name, "baton-worker");
}

TEST(Manifest, TellsEveryMistakeWithItsPlace) {
  EXPECT_EQ(errors_of("  model: {source: m}\n  gatway: {}\n"),
            "c.yaml:5:3: spec.gatway: unknown key (did you mean gateway?)");
  EXPECT_EQ(errors_of("  pools:\n    p: {role: prefil}\n"),
            "c.yaml:5:9: spec.pools.p.role: want one of prefill, decode, any, got 'prefil' (did you mean "
            "prefill?)");
  const std::string two = errors_of("  gateway: {listen: nowhere}\n  pools: {a: {replicas: 0}}\n");
  EXPECT_NE(two.find("c.yaml:4:13: spec.gateway.listen: want address:port"), std::string::npos) << two;
  EXPECT_NE(two.find("spec.pools.a.replicas: want a whole number 1..64, got '0'"), std::string::npos) << two;
}

TEST(Manifest, RefusalsSayWhatTheyGot) {
  EXPECT_THAT(errors_of("  pools: {any: {kv: {blockTokens: 17}}}\n"),
              testing::HasSubstr("want a multiple of 16, got 17"));
  EXPECT_THAT(errors_of("  pools: {any: {device: cuda, kv: {blockTokens: 48}}}\n"),
              testing::HasSubstr("128 or 256, got 48"));
}

TEST(Manifest, AModelHasEachNameOnce) {
  EXPECT_THAT(errors_of("  model: {names: [gpt-4o, tiny, gpt-4o]}\n"),
              testing::HasSubstr("spec.model.names: want each name once, got 'gpt-4o' again"));
  EXPECT_EQ(errors_of("  model: {names: [gpt-4o, gpt-4o-mini]}\n"), "");
}

TEST(Manifest, MoreContextThanTheModelHasIsSaid) {
  const ClusterManifest m{.context_tokens = 100000};
  EXPECT_THAT(m.context_notice(8192), testing::HasSubstr("is 100000, and the model was trained for 8192"));
  EXPECT_EQ(m.context_notice(100000), "");
  EXPECT_EQ(ClusterManifest{}.context_notice(8192), "") << "not given";
}

TEST(Manifest, RefusesWhatWouldSwitchDisaggregationOff) {
  EXPECT_NE(errors_of("  pools: {prefill: {}}\n").find("no pool with role decode or any"), std::string::npos);
  EXPECT_NE(
      errors_of("  pools: {prefill: {kv: {dtype: f32}}, decode: {}}\n").find("KV cannot be handed over"),
      std::string::npos);
  EXPECT_NE(errors_of("  pools: {prefill: {}, decode: {numerics: f32}}\n").find("KV cannot be handed over"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: reference, numerics: bf16dot}}\n").find("computes in float32"),
            std::string::npos);
  EXPECT_EQ(errors_of("  pools: {prefill: {}, mixed: {role: any}}\n"), "");
}

TEST(Manifest, DevicesAreChosenByIndexOrUuid) {
  EXPECT_EQ(errors_of("  pools: {any: {device: cuda}}\n"), "");
  EXPECT_EQ(errors_of("  pools: {any: {device: \"cuda:MIG-8f2b-1\", numerics: fastest}}\n"), "");
  const auto cuda = parse_manifest("c.yaml",
                                   "apiVersion: baton/v1\nkind: Cluster\nmetadata: {name: a}\nspec:\n"
                                   "  pools: {any: {device: \"cuda:1\"}}\n");
  ASSERT_TRUE(cuda.ok()) << cuda.status();
  EXPECT_EQ(cuda->pools[0].device, "cuda:1");
  EXPECT_EQ(cuda->pools[0].block_tokens, 64);
  EXPECT_EQ(cuda->pools[0].kv_memory_bytes, 8ull << 30);
  EXPECT_EQ(cuda->pools[0].max_batch_tokens, 2048);
  EXPECT_NE(errors_of("  pools: {any: {device: \"cuda:x\"}}\n").find("cuda:MIG-<uuid>"), std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, numerics: f32}}\n").find("fastest"), std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, kv: {dtype: int8}}}\n").find("stores bf16"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, kv: {blockTokens: 48}}}\n").find("blockTokens"),
            std::string::npos);
  EXPECT_EQ(errors_of("  pools: {prefill: {device: cuda}, decode: {device: cuda}}\n"), "");
  EXPECT_EQ(errors_of("  pools: {prefill: {device: \"cuda:0\"}, decode: {device: \"cuda:MIG-1-2\"}}\n"), "");
  EXPECT_NE(errors_of("  pools: {prefill: {device: cuda}, decode: {device: cpu}}\n").find("differ in device"),
            std::string::npos);
  EXPECT_EQ(errors_of("  pools: {any: {device: cuda, parallel: {tensor: 2}}}\n"), "");
  EXPECT_EQ(errors_of("  pools: {any: {device: \"cuda:1\", parallel: {tensor: 2}}}\n"), "");
  EXPECT_NE(errors_of("  pools: {any: {device: \"cuda:GPU-1-2\", parallel: {tensor: 2}}}\n")
                .find("a GPU of its own"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {numerics: fastest}}\n").find("want one of f32, bf16dot"),
            std::string::npos);
}

TEST(Manifest, Fp8IsForDevicesThatMultiplyIt) {
  EXPECT_EQ(errors_of("  pools: {any: {device: cuda, quantization: fp8}}\n"), "");
  EXPECT_EQ(errors_of("  pools: {any: {quantization: none}}\n"), "");
  EXPECT_NE(errors_of("  pools: {any: {quantization: fp8}}\n").find("device cpu does not multiply fp8"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, numerics: fastest, quantization: fp8}}\n")
                .find("want numerics bf16dot"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {prefill: {device: cuda, quantization: fp8}, decode: {device: cuda}}\n")
                .find("KV cannot"),
            std::string::npos);
}

TEST(Manifest, InvariantNumericsWantATable) {
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, numerics: invariant}}\n").find("baton tune -m MODEL"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {device: cuda, algorithms: a.txt}}\n").find("only numerics: invariant"),
            std::string::npos);
  EXPECT_NE(errors_of("  pools: {any: {numerics: invariant}}\n").find("want one of f32, bf16dot"),
            std::string::npos);
  const auto m =
      parse_manifest("/etc/baton/c.yaml",
                     "apiVersion: baton/v1\nkind: Cluster\nmetadata: {name: a}\nspec:\n"
                     "  pools: {any: {device: cuda, numerics: invariant, algorithms: h200.txt}}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->pools[0].algorithms, "/etc/baton/h200.txt");
  EXPECT_EQ(parse_manifest("/tmp/c.yaml", to_yaml(*m))->pools[0].algorithms, "/etc/baton/h200.txt");
}

TEST(Manifest, KvInHostMemory) {
  const auto m = parse_manifest("c.yaml",
                                "apiVersion: baton/v1\nkind: Cluster\nmetadata: {name: a}\nspec:\n"
                                "  pools: {any: {kv: {memory: 1Gi, hostMemory: 4Gi}}, none: {}}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->pools[0].kv_host_memory_bytes, uint64_t{4} << 30);
  EXPECT_EQ(m->pools[1].kv_host_memory_bytes, 0u);
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->pools[0].kv_host_memory_bytes, uint64_t{4} << 30);
  EXPECT_EQ(errors_of("  pools: {any: {kv: {hostMemory: 1Gi}, parallel: {tensor: 2}}}\n"), "");
  EXPECT_NE(errors_of("  pools: {any: {kv: {hostMemory: 4}}}\n").find("256Ki at least"), std::string::npos);
  EXPECT_EQ(errors_of("  pools: {any: {kv: {hostMemory: 0}}}\n"), "");
}

TEST(Manifest, StaysOnLoopbackUnlessTold) {
  EXPECT_NE(errors_of("  gateway: {listen: \"0.0.0.0:8000\"}\n").find("reachable from other machines"),
            std::string::npos);
  EXPECT_EQ(errors_of("  gateway: {listen: \"0.0.0.0:8000\", insecureAllowPlaintextOffLoopback: true}\n"),
            "");
  EXPECT_EQ(errors_of("  gateway: {listen: \"[::1]:8000\"}\n"), "");
  EXPECT_EQ(errors_of("  gateway: {listen: \"localhost:8000\"}\n"), "");
  EXPECT_NE(errors_of("  gateway: {listen: \"gpu-box:8000\"}\n").find("'gpu-box' is a name; want an IP"),
            std::string::npos);
}

// Off loopback: TLS and keys, or words for each of them that is missing.
TEST(Manifest, OffLoopbackWantsTlsAndKeys) {
  const std::string listen = "listen: \"0.0.0.0:8443\"", tls = "tls: {certificate: a.pem, key: /b.key}",
                    keys = "apiKeysFile: keys.txt", admin = "admin: \"0.0.0.0:9100\"";
  const auto says = [](std::vector<std::string> parts) {
    return errors_of(cat("  gateway: {", join(parts, ", "), "}\n"));
  };
  EXPECT_EQ(says({listen, tls, keys}), "");
  EXPECT_EQ(says({listen, admin, tls, keys}), "");
  EXPECT_EQ(says({listen, admin, tls, "insecureAllowAnonymousOffLoopback: true"}), "");
  EXPECT_EQ(says({listen, keys, "insecureAllowPlaintextOffLoopback: true"}), "");
  EXPECT_EQ(says({tls}), "");
  EXPECT_EQ(says({keys}), "");
  EXPECT_THAT(says({listen, keys}), testing::HasSubstr("spec.gateway.listen: '0.0.0.0' is reachable from"));
  EXPECT_THAT(says({listen, tls}), testing::HasSubstr("anybody there may use the model; give"));
  EXPECT_THAT(says({admin, tls}), testing::HasSubstr("spec.gateway.admin: '0.0.0.0' is reachable from"));
  EXPECT_THAT(says({admin, keys}), testing::HasSubstr("spec.gateway.admin: '0.0.0.0' is reachable from"));
  EXPECT_THAT(says({tls, "insecureAllowPlaintextOffLoopback: true"}), testing::HasSubstr("want one of both"));
  EXPECT_THAT(says({"tls: {certificate: a.pem}"}), testing::HasSubstr("want `key`, a PEM file"));
  EXPECT_THAT(says({"tls: {certificate: a.pem, key: b, ca: c}"}), testing::HasSubstr("tls.ca: unknown key"));
  EXPECT_THAT(says({"apiKeysFile: \"\""}), testing::HasSubstr("a file that `baton key` makes"));
  for (const char* limit : {"requestsPerTenant: 4", "tokensPerMinutePerTenant: 4"})
    EXPECT_THAT(says({cat("limits: {", limit, "}")}), testing::HasSubstr("want gateway.apiKeysFile, too"));

  const auto m =
      parse_manifest("/etc/baton/c.yaml",
                     cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n  gateway: {", listen, ", ", tls, ", ",
                         keys, ", limits: {requestsPerTenant: 4, tokensPerMinutePerTenant: 9000}}\n"));
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->gateway.tls->certificate.path, "/etc/baton/a.pem");
  EXPECT_EQ(m->gateway.tls->key.path, "/b.key");
  EXPECT_EQ(m->gateway.api_keys.path, "/etc/baton/keys.txt");
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(to_yaml(*again), to_yaml(*m));
  EXPECT_EQ(again->gateway.requests_per_tenant, 4);
  EXPECT_EQ(again->gateway.tokens_per_minute, 9000);
}

TEST(Manifest, PagesOfOtherOriginsAreListed) {
  const auto m =
      parse_manifest("c.yaml",
                     "apiVersion: baton/v1\nkind: Cluster\nspec:\n  gateway: {allowedOrigins: "
                     "[\"https://chat.example\", \"http://localhost:3000\", \"http://[::1]:8080\", "
                     "\"http://[::1]\", \"app://x\", \"*\"]}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->gateway.allowed_origins.size(), 6u);
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->gateway.allowed_origins, m->gateway.allowed_origins);
  for (const char* bad :
       {"https://chat.example/", "chat.example", "https://", "https://:80", "https://Chat.example", "null",
        "", "https://a:0", "https://a:99999", "https://a b", "https://*.example", "://a", "https://a?b"})
    EXPECT_THAT(errors_of(cat("  gateway: {allowedOrigins: [\"", bad, "\"]}\n")),
                testing::HasSubstr(cat("gateway.allowedOrigins: want origins as browsers send them")))
        << bad;
}

TEST(Manifest, OperatorsMayHaveAnAddressOfTheirOwn) {
  const auto says = [](const std::string& gateway, const char* what) {
    const std::string errors = errors_of(cat("  gateway: {", gateway, "}\n"));
    EXPECT_NE(errors.find(what), std::string::npos) << errors;
  };
  EXPECT_EQ(errors_of("  gateway: {admin: \"127.0.0.1:9100\"}\n"), "");
  says("admin: here", "gateway.admin: want an IP address and a port like 127.0.0.1:9100, got 'here'");
  says("admin: \"gpu-box:9100\"", "want an IP address and a port");
  says("admin: \"0.0.0.0:9100\"", "gateway.admin: '0.0.0.0' is reachable from other machines");
  const auto m =
      parse_manifest("c.yaml",
                     "apiVersion: baton/v1\nkind: Cluster\nspec:\n  gateway: {admin: \"[::]:9100\", "
                     "insecureAllowPlaintextOffLoopback: true}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->gateway.admin, "[::]:9100");
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->gateway.admin, "[::]:9100");
}

// A control section with TLS; `more` stands beside it.
std::string with_tls(const std::string& listen, const std::string& more = "") {
  return cat("  control:\n    listen: \"", listen,
             "\"\n    tls:\n      ca: tls/ca.pem\n      coordinator: {certificate: c.pem, key: /k/c.key}\n"
             "      worker: {certificate: w.pem, key: w.key, name: node}\n",
             more);
}

TEST(Manifest, WorkersOnOtherMachines) {
  const auto m = parse_manifest(
      "/d/c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n", with_tls("10.0.0.1:8001"),
                       "  pools: {prefill: {}, decode: {network: {control: 10.0.0.0/24, data: 10.1.0.0/16, "
                       "dataPort: 7300}}}\n  transfer: {insecureAllowPlaintextOffLoopback: true}\n"));
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->control.join_address(), "10.0.0.1:8001");
  ASSERT_TRUE(m->control.tls.has_value());
  EXPECT_EQ(m->control.tls->ca.path, "/d/tls/ca.pem") << "relative to the file";
  EXPECT_EQ(m->control.tls->coordinator.key.path, "/k/c.key");
  EXPECT_EQ(m->control.tls->worker.certificate.place, "/d/c.yaml:9:16: spec.control.tls.worker.certificate");
  EXPECT_EQ(m->control.tls->worker.name, "node");
  EXPECT_EQ(m->pools[1].network.data, "10.1.0.0/16");
  EXPECT_EQ(m->pools[1].network.data_port, 7300);
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(to_yaml(*again), to_yaml(*m));
}

TEST(Manifest, KvIsUnderTlsWhereTheControlConnectionIs) {
  const auto kv_tls = [](const std::string& spec) {
    const auto m = parse_manifest("c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n", spec));
    EXPECT_TRUE(m.ok()) << m.status();
    return m.ok() && m->kv_tls();
  };
  EXPECT_TRUE(kv_tls(with_tls("10.0.0.1:8001")));
  EXPECT_TRUE(kv_tls(with_tls("127.0.0.1:8001") + "  transfer: {transport: socket}\n"));
  EXPECT_FALSE(kv_tls(with_tls("127.0.0.1:8001") + "  transfer: {transport: am}\n"));
  EXPECT_FALSE(kv_tls(with_tls("10.0.0.1:8001") + "  transfer: {insecureAllowPlaintextOffLoopback: true}\n"));
  EXPECT_FALSE(kv_tls(""));
}

// Docs/adr/0004: a stale read would be served.
TEST(Manifest, ChecksumsAreNotTakenOffLanesThatNeedThem) {
  for (const char* lane : {"am", "get"}) {
    const std::string errors = errors_of(cat("  transfer: {transport: ", lane, ", checksum: false}\n"));
    EXPECT_NE(errors.find(cat("spec.transfer.checksum: transport ", lane, " needs checksums")),
              std::string::npos)
        << errors;
    EXPECT_NE(errors.find("want true, or transport auto, local or socket"), std::string::npos) << errors;
    EXPECT_EQ(errors_of(cat("  transfer: {transport: ", lane, "}\n")), "");
  }
  for (const char* lane : {"auto", "local", "socket"})
    EXPECT_EQ(errors_of(cat("  transfer: {transport: ", lane, ", checksum: false}\n")), "");
}

TEST(Manifest, RanksAreUnderTlsWhereTheControlConnectionIs) {
  const std::string pool = "  pools: {any: {parallel: {tensor: 2, rendezvous: '10.0.0.1:7100'";
  const auto rank_tls = [&](const std::string& control, const std::string& more) {
    const auto m = parse_manifest(
        "c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n", control, pool, more, "}}}\n"));
    EXPECT_TRUE(m.ok()) << m.status();
    return m.ok() && m->rank_tls(m->pools[0]);
  };
  const std::string plain = ", insecureAllowPlaintextOffLoopback: true";
  EXPECT_TRUE(rank_tls(with_tls("10.0.0.1:8001"), ""));
  EXPECT_TRUE(rank_tls(with_tls("127.0.0.1:8001"), ""));
  EXPECT_FALSE(rank_tls(with_tls("10.0.0.1:8001"), plain)) << "the permission takes it off";
  EXPECT_FALSE(rank_tls("", plain));
  const std::string hosts = "parallel: {tensor: 2}, hosts: [a, b]";
  EXPECT_EQ(errors_of(with_tls("10.0.0.1:8001") + "  pools: {any: {" + hosts + "}}\n"), "");
  EXPECT_NE(errors_of(with_tls("10.0.0.1:8001") + "  pools: {any: {device: cuda, kv: {dtype: bf16}, " +
                      hosts + "}}\n")
                .find("NCCL, which has no TLS"),
            std::string::npos);
}

TEST(Manifest, EachRankHasAPortOfItsOwn) {
  const auto parse = [](const std::string& pools) {
    return parse_manifest(
        "c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n  control: {listen: \"10.0.0.1:8001\", "
                      "insecureAllowPlaintextOffLoopback: true}\n  pools: {",
                      pools, "}\n  transfer: {insecureAllowPlaintextOffLoopback: true}\n"));
  };
  const auto refused = [&](const std::string& pools, const char* why) {
    const auto m = parse(pools);
    ASSERT_FALSE(m.ok()) << pools;
    EXPECT_THAT(std::string(m.status().message()), ::testing::HasSubstr(why));
  };
  const std::string group = "prefill: {replicas: 2, parallel: {tensor: 2}, network: {dataPort: 7300";
  EXPECT_TRUE(parse(group + ", controlPort: 7200}}, decode: {network: {dataPort: 7300}}").ok())
      << "7300 to 7303; who is where is not said";
  refused(
      group + ", controlPort: 7301}}, decode: {}",
      "network.dataPort of prefill-0.1 and network.controlPort of prefill-0 are port 7301 of one machine");
  refused("prefill: {replicas: 4, parallel: {tensor: 2}, network: {dataPort: 65530}}, decode: {}",
          "network.dataPort of prefill-3 would be 65536");
  const std::string hosts =
      "prefill: {hosts: [10.0.0.2], parallel: {tensor: 2}, network: {dataPort: 7300}}, decode: {hosts: [";
  EXPECT_TRUE(parse(hosts + "10.0.0.3], network: {dataPort: 7301}}").ok());
  refused(hosts + "10.0.0.2], network: {dataPort: 7301}}",
          "network.dataPort of decode-0 and network.dataPort of prefill-0.1 are port 7301 of one machine");
}

TEST(Manifest, WhereTheCoordinatorIsFound) {
  const auto join = [](const std::string& control) {
    const auto m =
        parse_manifest("c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n  control: {", control,
                                     "}\n  transfer: {insecureAllowPlaintextOffLoopback: true}\n"));
    EXPECT_TRUE(m.ok()) << m.status();
    return m.ok() ? m->control.join_address() : "";
  };
  EXPECT_EQ(join(""), "") << "any port of loopback: only the flag can say";
  EXPECT_EQ(join("listen: '127.0.0.1:8001'"), "127.0.0.1:8001");
  EXPECT_EQ(join("listen: '0.0.0.0:8001', insecureAllowPlaintextOffLoopback: true"), "");
  EXPECT_EQ(join("listen: '0.0.0.0:8001', join: 'c:8001', insecureAllowPlaintextOffLoopback: true"),
            "c:8001");
}

TEST(Manifest, HostsAreCounted) {
  const std::string control =
      "  control: {listen: '10.0.0.1:8001', insecureAllowPlaintextOffLoopback: true}\n"
      "  transfer: {insecureAllowPlaintextOffLoopback: true}\n";
  const auto says = [&](const std::string& pools, const char* what) {
    const std::string errors = errors_of(control + "  pools: {" + pools + "}\n");
    EXPECT_NE(errors.find(what), std::string::npos) << errors;
  };
  says("any: {replicas: 2, hosts: [a, b, c]}", "want 2 hosts, one for each of 2 x 1 processes; got 3");
  says("any: {replicas: 2, parallel: {tensor: 2}, hosts: [a]}",
       "want 4 hosts, one for each of 2 x 2 processes, or 2, one for each worker; got 1");
  says("any: {hosts: [localhost]}", "want names or addresses of machines, got 'localhost'");
  says("any: {parallel: {tensor: 2}, hosts: [a, b]}", "ranks of worker 0 are on different machines");
  EXPECT_NE(errors_of("  pools: {any: {hosts: [a]}}\n").find("how do workers there find the coordinator?"),
            std::string::npos);
  const auto m =
      parse_manifest("c.yaml", cat("apiVersion: baton/v1\nkind: Cluster\nspec:\n", control,
                                   "  pools: {any: {replicas: 2, hosts: [a, b], parallel: {tensor: 2}}}\n"));
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->pools[0].host_of(1, 0), "b");
  EXPECT_EQ(m->pools[0].host_of(1, 1), "b") << "one name a worker: its ranks are together";
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(to_yaml(*again), to_yaml(*m));
}

TEST(Manifest, OffLoopbackWantsTlsOrThePermission) {
  const auto says = [](const std::string& spec, const char* what) {
    const std::string errors = errors_of(spec);
    EXPECT_NE(errors.find(what), std::string::npos) << errors;
  };
  const std::string allowed = "  transfer: {insecureAllowPlaintextOffLoopback: true}\n";
  says("  control: {listen: '10.0.0.1:8001'}\n" + allowed,
       "c.yaml:4:13: spec.control.listen: '10.0.0.1' is on the network, and nothing protects");
  says("  control: {join: 'c:8001'}\n" + allowed, "c.yaml:4:13: spec.control.join: 'c' is on the network");
  says("  control: {listen: here}\n", "want address:port, got 'here'");
  says("  control: {listen: '10.0.0.1:8001', insecureAllowPlaintextOffLoopback: true}\n",
       "workers of pool any listen for KV on the network, and KV travels without TLS: give control.tls");
  says(with_tls("10.0.0.1:8001") + "  transfer: {transport: am}\n",
       "use transport auto or socket in place of am");
  EXPECT_EQ(errors_of(with_tls("10.0.0.1:8001")), "");
  says(with_tls("10.0.0.1:8001", "    insecureAllowPlaintextOffLoopback: true\n") + allowed,
       "want one of both");
  says("  control: {tls: {ca: a}}\n", "spec.control.tls.coordinator: want `certificate`, a PEM file");
  says(
      "  control: {tls: {ca: a, coordinator: {certificate: a, key: a, name: x}, worker: {certificate: a, "
      "key: "
      "a, name: x}}}\n",
      "a worker could pose as coordinator");
  says("  pools: {any: {network: {data: eth0}}}\n", "want an address of the machine like 10.0.0.2");
  says("  pools: {any: {network: {data: 0.0.0.0}}}\n" + allowed, "want one address");
  says("  pools: {any: {network: {metrics: 0.0.0.0}}}\n", "insecureAllowPlaintextMetricsOffLoopback: true");
  EXPECT_EQ(errors_of(with_tls("10.0.0.1:8001") + allowed), "");
  EXPECT_EQ(errors_of(with_tls("10.0.0.1:8001") + "  pools: {any: {network: {data: 127.0.0.1}}}\n"), "");
  EXPECT_EQ(
      errors_of("  control: {listen: '10.0.0.1:8001', insecureAllowPlaintextOffLoopback: true}\n" + allowed),
      "");
}

TEST(Manifest, RefusesAnotherKindOfFile) {
  for (const char* bad :
       {"apiVersion: v1\nkind: Pod\n", "kind: Cluster\n", "apiVersion: baton/v1\n", "{}", "[]", "\0"})
    EXPECT_FALSE(parse_manifest("c.yaml", bad).ok()) << bad;
}

TEST(Manifest, AWorkerOfSeveralRanks) {
  const auto m = parse_manifest("c.yaml",
                                "apiVersion: baton/v1\nkind: Cluster\nspec:\n  pools:\n    any: {replicas: "
                                "2, parallel: {tensor: 2, pipeline: 3, stageLayers: [11, 10, 9], "
                                "rendezvous: \"10.0.0.1:7100\", insecureAllowPlaintextOffLoopback: true}}\n");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(m->pools[0].ranks(), 6);
  EXPECT_EQ(m->workers(), 2);
  EXPECT_EQ(m->processes(), 12);
  const auto again = parse_manifest("again.yaml", to_yaml(*m));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(to_yaml(*again), to_yaml(*m));
  EXPECT_EQ(again->pools[0].rendezvous, "10.0.0.1:7100");
  EXPECT_EQ(again->pools[0].stage_layers, (std::vector<int32_t>{11, 10, 9}));
}

TEST(Manifest, RefusesGroupsThatCannotBe) {
  const auto says = [](const std::string& pools, const char* what) {
    const std::string errors = errors_of("  pools: {" + pools + "}\n");
    EXPECT_NE(errors.find(what), std::string::npos) << errors;
  };
  says("prefill: {device: reference, parallel: {tensor: 2}}, decode: {device: reference}",
       "differ in parallel.tensor: device reference stores KV by rows");
  says("any: {parallel: {tensor: 2, rendezvous: '10.0.0.1:7100'}}",
       "ranks talk without TLS: give control.tls");
  says("any: {parallel: {tensor: 2, rendezvous: here}}", "want host:port, got 'here'");
  says("any: {parallel: {tensor: 8, pipeline: 8}}", "tensor x pipeline is 64; want 32 at most");
  says("any: {parallel: {pipeline: 2, stageLayers: [30]}}",
       "spec.pools.any.parallel.stageLayers: want 2 numbers, one for each stage of pipeline, got 1");
  says("any: {parallel: {stageLayers: [16, 14]}}",
       "stageLayers: is for parallel.pipeline above 1: one stage has all layers");
  says("any: {parallel: {pipeline: 2, stageLayers: [30, 0]}}",
       "stageLayers: want whole numbers 1..65536, got '0'");
  EXPECT_EQ(errors_of("  pools: {any: {parallel: {tensor: 2, rendezvous: '127.0.0.1:7100'}}}\n"), "");
}

}  // namespace
}  // namespace baton::cli
