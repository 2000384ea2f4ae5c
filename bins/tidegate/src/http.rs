//! `/metrics` and `/healthz`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, registry: Registry) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(registry);
    axum::serve(listener, routes).await
}

/// Binds the port of the HTTP interface.
///
/// # Errors
/// A text for the operator.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!(
            "error: http.bind: cannot listen on {address}: {error}; choose another with TIDEGATE_HTTP__BIND"
        )
    })
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    // Encoding fails only for a metric without a name or a value, and the registry takes none of those.
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
