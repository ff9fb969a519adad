#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "coordinator/gateway/http_message.h"

namespace baton::coordinator {

// Who may call a route: anybody (probes), users of the models, operators of the cluster.
enum class RouteRole : uint8_t { kPublic = 1, kUser, kOperator };

using RouteHandler = std::function<void(std::shared_ptr<Exchange>)>;

// A path ending in "/*" matches everything below it. There is no way to make a route without a role (design
// I9).
struct HttpRoute {
  HttpRoute(std::string method, std::string path, RouteRole role, RouteHandler handler,
            ApiDialect dialect = ApiDialect::kOpenAi)
      : method(std::move(method)),
        path(std::move(path)),
        role(role),
        handler(std::move(handler)),
        dialect(dialect) {}
  std::string method;
  std::string path;
  RouteRole role;
  RouteHandler handler;
  ApiDialect dialect;
};

// All routes of one server. Filled while the process is wired, then only read. Thread: any once filled.
class RouteTable {
 public:
  // kAlreadyExists for a second route of that method and path; kInvalidArgument for a role outside the enum,
  // a path without a leading slash or no handler.
  absl::Status add(HttpRoute route);

  struct Match {
    const HttpRoute* route = nullptr;
    RouteRole role = RouteRole::kPublic;       // the strictest of the path's routes, whatever their method
    ApiDialect dialect = ApiDialect::kOpenAi;  // of the path
    std::string allow;                         // when the path is known but not with this method: "GET, POST"
  };
  // HEAD is served by the GET route, and "/a/" by that of "/a".
  Match find(std::string_view method, std::string_view path) const;
  const std::vector<HttpRoute>& routes() const { return routes_; }

 private:
  std::vector<HttpRoute> routes_;
};

}  // namespace baton::coordinator
