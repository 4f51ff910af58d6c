//! What a person who has just started a server reads: where it is, and how to try it. Made from
//! what is really bound; it prints nothing by itself.

use std::env;
use std::net::SocketAddr;
use std::path::Path;

use ringpost_core::admit::Route;

/// Lines for standard error, once all listeners are open.
///
/// `generated` is the data directory when the server takes tokens that are signed with the secret
/// in it, so that `ringpost token` works without a configuration.
pub fn text(
    listen: SocketAddr,
    api: SocketAddr,
    routes: &[Route],
    generated: Option<&Path>,
) -> String {
    let path = routes.first().map_or("/", |route| route.path.as_str());
    // A wildcard is no address to connect to.
    let reach = |address: SocketAddr| match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => format!("127.0.0.1:{}", v4.port()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => format!("[::1]:{}", v6.port()),
        address => address.to_string(),
    };
    let (listen, api) = (reach(listen), reach(api));
    let mut text = format!("Ringpost listens for WebSocket clients on ws://{listen}{path}\n");
    text += &format!("and for its HTTP API on http://{api}/v1/\n");
    let Some(data) = generated else { return text };
    let data = data.display();
    // As it was started: the binary need not be in the search path.
    let program = env::args().next().unwrap_or_else(|| "ringpost".to_owned());
    let url = |user: &str| {
        format!("ws://{listen}{path}?did=1&token=$({program} token --data {data} --user {user})")
    };
    text += &format!(
        "\n\
         Chat with it, as alice in one terminal and bob in another:\n\
         \x20 npx -y wscat -c \"{}\"\n\
         \x20 npx -y wscat -c \"{}\"\n\
         and type, as alice:\n\
         \x20 {{\"id\":\"1\",\"type\":\"C2C\",\"to\":\"bob\",\"payload\":{{\"msg_type\":\"text\",\"text\":\"hello\"}}}}\n\
         `python3 -m websockets` takes the same URL.\n\
         \n\
         Ask its API:\n\
         \x20 curl -H \"Authorization: Bearer $(cat {data}/api-key)\" http://{api}/v1/users/alice\n",
        url("alice"),
        url("bob"),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_core::ids::Dialect;

    fn shown(listen: &str, generated: bool) -> String {
        let routes = [Route { path: "/imboy/ws".to_owned(), dialect: Dialect::Imboy }];
        let address = |text: &str| text.parse().expect("an address");
        let generated = generated.then_some(Path::new("./data"));
        text(address(listen), address("127.0.0.1:7080"), &routes, generated)
    }

    #[test]
    fn it_names_what_is_bound() {
        let text = shown("127.0.0.1:7070", true);
        assert!(text.contains("ws://127.0.0.1:7070/imboy/ws?did=1&token=$("));
        assert!(text.contains(" token --data ./data --user alice)\""));
        assert!(text.contains("http://127.0.0.1:7080/v1/users/alice"));
        assert!(text.contains(r#"{"id":"1","type":"C2C","to":"bob","payload":{"#));
        assert!(shown("0.0.0.0:5", true).contains("ws://127.0.0.1:5/imboy/ws"));
        assert!(shown("[::]:5", true).contains("ws://[::1]:5/imboy/ws"));
    }

    #[test]
    fn it_shows_no_command_that_would_not_work() {
        assert!(!shown("127.0.0.1:7070", false).contains(" token "));
    }
}
