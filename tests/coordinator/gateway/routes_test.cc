#include "coordinator/gateway/routes.h"

#include <gtest/gtest.h>

#include <type_traits>

namespace baton::coordinator {
namespace {

static_assert(!std::is_constructible_v<HttpRoute, std::string, std::string, RouteHandler>,
              "a route needs a role");

TEST(RouteTable, ASlashAtTheEndDoesNotMatter) {
  RouteTable routes;
  const RouteHandler handler = [](auto) {};
  for (const char* path : {"/", "/models", "/models/*"})
    ASSERT_TRUE(routes.add({"GET", path, RouteRole::kUser, handler}).ok());
  const auto found = [&](std::string_view path) {
    const auto match = routes.find("GET", path);
    return match.route ? match.route->path : "";
  };
  EXPECT_EQ(found("/"), "/");
  EXPECT_EQ(found("/models/"), "/models");
  EXPECT_EQ(found("/models/a/"), "/models/*");
  EXPECT_EQ(found("/models//"), "") << "one only";
  EXPECT_EQ(found("//"), "/");
  EXPECT_EQ(routes.find("POST", "/models/").allow, "GET");
}

TEST(RouteTable, RefusesWhatIsIncomplete) {
  RouteTable routes;
  const RouteHandler handler = [](auto) {};
  EXPECT_TRUE(routes.add({"GET", "/a", RouteRole::kUser, handler}).ok());
  EXPECT_EQ(routes.add({"GET", "/a", RouteRole::kUser, handler}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(routes.add({"GET", "/b", static_cast<RouteRole>(0), handler}).ok());
  EXPECT_FALSE(routes.add({"GET", "b", RouteRole::kUser, handler}).ok());
  EXPECT_FALSE(routes.add({"GET", "/b", RouteRole::kUser, nullptr}).ok());
  EXPECT_EQ(routes.find("POST", "/a").allow, "GET");
  EXPECT_EQ(routes.find("GET", "/c").route, nullptr);
}

}  // namespace
}  // namespace baton::coordinator
