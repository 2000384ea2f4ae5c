//! Finds the subscribers of a topic and the retained messages below a filter.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::ops::ControlFlow;

use tidegate_topic::{RetainedTree, SubscriptionTree, TopicFilter, TopicName};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut subscriptions = SubscriptionTree::new();
    subscriptions.insert(TopicFilter::parse("sensors/+/temperature")?, "dashboard", ());
    subscriptions.insert(TopicFilter::parse("sensors/#")?, "archive", ());
    subscriptions.insert(TopicFilter::parse("alarms/#")?, "pager", ());
    subscriptions.for_each_match(TopicName::parse("sensors/room1/temperature")?, |subscriber, ()| {
        println!("delivered to {subscriber}");
    });

    let mut retained = RetainedTree::new();
    for (topic, value) in
        [("sensors/room1/temperature", 21), ("sensors/room2/temperature", 19), ("alarms/fire", 0)]
    {
        retained.insert(TopicName::parse(topic)?, value);
    }
    let _: ControlFlow<()> = retained.for_each_match(TopicFilter::parse("sensors/#")?, |topic, value| {
        println!("retained: {} = {value}", topic.as_str());
        ControlFlow::Continue(())
    });

    if let Err(error) = TopicFilter::parse("sensors/room+/x") {
        println!("refused: {error}");
    }
    Ok(())
}
