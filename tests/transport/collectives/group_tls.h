#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/support/test_certificates.h"
#include "transport/tls/tls_stream.h"

namespace baton {

// What ranks of a test show each other; null when there is no openssl command.
inline std::unique_ptr<transport::TlsContext> tls_as(const std::string& who, const std::string& ca = "ca") {
  const TestCertificates& certificates = TestCertificates::get();
  if (!certificates.there()) return nullptr;
  auto made = transport::TlsContext::create(certificates.as(who, ca));
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

}  // namespace baton
