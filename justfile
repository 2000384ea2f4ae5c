# What a developer types. `just` alone lists it; everything here is a plain command that can be run without just.

export RUSTDOCFLAGS := "-D warnings"

[private]
default:
    @just --list

# Run the broker; arguments go to tidegate
run *args:
    cargo run -p tidegate -- {{args}}

# Run every test that needs only Rust
test *args:
    cargo test --workspace {{args}}

# Format check and lints, as the gate has them
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p tidegate-testkit --features e2e --tests -- -D warnings

# Build the documentation of every crate
docs *args:
    cargo doc --workspace --no-deps {{args}}

# The whole gate, with the suite against a real Kafka
ci:
    .ci/run

# The suite against a real Kafka alone (Java 17; Maven the first time)
e2e *args:
    scripts/kafka fetch
    cargo build -p tidegate
    cargo test -p tidegate-testkit --features e2e --test e2e -- --test-threads=1 --nocapture {{args}}

# Start a real Kafka on this machine; see scripts/kafka for options
kafka-start *args:
    scripts/kafka start {{args}}

# End the Kafka of kafka-start and delete its data
kafka-stop:
    scripts/kafka remove

# Eclipse Paho's interoperability suite against a broker; needs a checkout of it in PAHO_TESTING
paho broker="127.0.0.1:1883":
    scripts/paho-interop {{broker}}

# Clients of other projects (mosquitto_pub and _sub, Paho for Python) against the debug binary
interop:
    cargo build -p tidegate
    scripts/interop-clients

# Fuzz one target of a crate for so many seconds (needs a C++ compiler)
fuzz crate target seconds="60":
    scripts/fuzz {{crate}} {{target}} -max_total_time={{seconds}}

# Run the benches; a name selects one
bench *args:
    cargo bench -p tidegate-benches {{args}}

# Licences, advisories and duplicates (needs cargo-deny, which takes minutes to install, so the gate leaves it out)
deny:
    cargo deny --all-features check
