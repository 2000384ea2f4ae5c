//! Serves an embedded log until Ctrl-C: `cargo run -p tidegate-minikafka --example serve -- [address] [directory]`.
//!
//! Then, from another terminal: `echo hello | kcat -P -b 127.0.0.1:9092 -t greetings` and
//! `kcat -C -b 127.0.0.1:9092 -t greetings`.

use tidegate_minikafka::{Error, MiniKafka};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let addr = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let mut builder = MiniKafka::builder().bind(addr).partitions(4);
    if let Some(directory) = arguments.next() {
        builder = builder.data_dir(directory);
    }
    let kafka = match builder.start().await {
        Err(Error::AddrInUse { addr }) => {
            return Err(format!("{addr} is taken: perhaps by a Kafka of yours").into());
        }
        started => started?,
    };
    println!("a single copy for trying out, on {}; Ctrl-C stops it", kafka.bootstrap());
    tokio::signal::ctrl_c().await?;
    kafka.stop().await?;
    Ok(())
}
