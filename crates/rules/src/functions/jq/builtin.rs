//! The functions of jq that are not written in jq.

use super::path;
use super::run::{Env, Flow, Item, Machine, Out, Stop, error};
use super::syntax::Term;
use super::value::{self, array, elements, float, members, number, text, type_name};
use crate::meter::Meter;
use crate::value::Value;

/// Calls a function by its name and how many arguments it has.
pub(super) fn call<'r>(
    machine: &mut Machine<'_>,
    name: &str,
    arguments: &[Term],
    env: &Env<'_, 'r>,
    input: Item<'r>,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    match (name, arguments) {
        ("empty", []) => Ok(()),
        ("error", [message]) => {
            with(machine, message, env, &input, &mut |_, message| Err(Stop::Error(message)))
        }
        ("path", [filter]) => {
            for at in machine.paths(filter, env, &input.value)? {
                machine.made(Value::array(at), &input, out)?;
            }
            Ok(())
        }
        ("getpath", [at]) => with(machine, at, env, &input, &mut |machine, at| {
            let keys = array(machine.meter, &at, "getpath()")?;
            let value = path::get_path(machine.meter, input.value.clone(), &keys)?;
            let at = input.path.as_ref().map(|path| path.iter().cloned().chain(keys).collect());
            out(machine, Item { value, path: at })
        }),
        ("recurse" | "repeat", [filter]) => unfold(machine, env, input, None, filter, out),
        ("while", [condition, change]) => unfold(machine, env, input, Some(condition), change, out),
        ("until", [condition, change]) => until(machine, env, input, condition, change, out),
        ("limit", [count, filter]) => with(machine, count, env, &input, &mut |machine, count| {
            limit(machine, float(&count, "limit()")?, filter, env, input.clone(), out)
        }),
        ("first", [filter]) => limit(machine, 1.0, filter, env, input, out),
        ("isempty", [filter]) => {
            let mut is_empty = true;
            machine.stopping(|machine, label| {
                machine.eval(filter, env, Item::of(input.value.clone()), &mut |_, _| {
                    is_empty = false;
                    Err(Stop::Break(label))
                })
            })?;
            machine.made(is_empty.into(), &input, out)
        }
        ("range", [from, to]) => range(machine, env, &input, [from, to], &Term::Literal(Value::Int(1)), out),
        ("range", [from, to, by]) => range(machine, env, &input, [from, to], by, out),
        ("sort_by" | "unique_by" | "min_by" | "max_by" | "group", [key]) => {
            by_key(machine, name, key, env, &input, out)
        }
        (_, []) => {
            let value = simple(machine, name, &input.value)?;
            machine.made(value, &input, out)
        }
        (_, [argument]) => with(machine, argument, env, &input, &mut |machine, argument| {
            let value = of_one(machine, name, &input.value, &argument)?;
            machine.made(value, &input, out)
        }),
        (_, [first, second]) => with(machine, second, env, &input, &mut |machine, second| {
            with(machine, first, env, &input, &mut |machine, first| {
                let value = of_two(machine, name, &input.value, &first, &second)?;
                machine.made(value, &input, out)
            })
        }),
        _ => unknown(name, arguments.len()),
    }
}

/// Whether there is such a function here, which is asked before a program runs.
pub(super) fn exists(name: &str, arguments: usize) -> bool {
    let names: &[&str] = match arguments {
        0 => &SIMPLE,
        1 => &[
            "error",
            "path",
            "getpath",
            "recurse",
            "repeat",
            "first",
            "isempty",
            "sort_by",
            "unique_by",
            "min_by",
            "max_by",
            "group",
            "has",
            "contains",
            "delpaths",
            "split",
            "startswith",
            "endswith",
            "ltrimstr",
            "rtrimstr",
            "indices",
            "flatten",
            "limit",
        ],
        2 => &["while", "until", "limit", "range", "setpath", "pow", "atan2", "matches"],
        3 => &["range"],
        _ => &[],
    };
    names.contains(&name)
}

const SIMPLE: [&str; 38] = [
    "empty",
    "length",
    "utf8bytelength",
    "keys",
    "keys_unsorted",
    "type",
    "tostring",
    "tonumber",
    "tojson",
    "fromjson",
    "floor",
    "ceil",
    "round",
    "sqrt",
    "fabs",
    "log",
    "log2",
    "log10",
    "exp",
    "exp2",
    "exp10",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "trunc",
    "reverse",
    "explode",
    "implode",
    "ascii_downcase",
    "ascii_upcase",
    "trim",
    "ltrim",
    "rtrim",
    "isnan",
    "isinfinite",
];

fn unknown<'r, T>(name: &str, arguments: usize) -> Flow<'r, T> {
    error(format!("{name}/{arguments} is not defined"))
}

/// Every value of an argument.
fn with<'r>(
    machine: &mut Machine<'_>,
    argument: &Term,
    env: &Env<'_, 'r>,
    input: &Item<'r>,
    each: &mut dyn FnMut(&mut Machine<'_>, Value<'r>) -> Flow<'r>,
) -> Flow<'r> {
    machine.eval(argument, env, Item::of(input.value.clone()), &mut |machine, item| each(machine, item.value))
}

/// A value, and everything inside it, outermost first.
pub(super) fn descend<'r>(machine: &mut Machine<'_>, input: Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
    let mut waiting = vec![input];
    while let Some(item) = waiting.pop() {
        machine.meter.step()?;
        out(machine, item.clone())?;
        if item.value.is_array() || item.value.is_map() {
            let mut inner = Vec::new();
            path::iterate(machine, &item, &mut |_, item| {
                inner.push(item);
                Ok(())
            })?;
            waiting.extend(inner.into_iter().rev());
        }
    }
    Ok(())
}

/// A value, then what a filter makes of it, then what it makes of that, and so on; each as long as the condition
/// holds.
fn unfold<'r>(
    machine: &mut Machine<'_>,
    env: &Env<'_, 'r>,
    input: Item<'r>,
    condition: Option<&Term>,
    change: &Term,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    let mut waiting = vec![input];
    while let Some(item) = waiting.pop() {
        machine.meter.step()?;
        if let Some(condition) = condition
            && !holds(machine, condition, env, &item)?
        {
            continue;
        }
        out(machine, item.clone())?;
        waiting.extend(all(machine, change, env, item)?.into_iter().rev());
    }
    Ok(())
}

fn until<'r>(
    machine: &mut Machine<'_>,
    env: &Env<'_, 'r>,
    input: Item<'r>,
    condition: &Term,
    change: &Term,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    let mut waiting = vec![input];
    while let Some(item) = waiting.pop() {
        machine.meter.step()?;
        if holds(machine, condition, env, &item)? {
            out(machine, item)?;
        } else {
            waiting.extend(all(machine, change, env, item)?.into_iter().rev());
        }
    }
    Ok(())
}

/// Whether the last value of a condition is true.
fn holds<'r>(
    machine: &mut Machine<'_>,
    condition: &Term,
    env: &Env<'_, 'r>,
    item: &Item<'r>,
) -> Flow<'r, bool> {
    Ok(machine.collect(condition, env, &item.value)?.last().is_some_and(value::is_true))
}

fn all<'r>(
    machine: &mut Machine<'_>,
    filter: &Term,
    env: &Env<'_, 'r>,
    item: Item<'r>,
) -> Flow<'r, Vec<Item<'r>>> {
    let mut items = Vec::new();
    machine.eval(filter, env, item, &mut |machine, item| {
        machine.meter.elements(1)?;
        items.push(item);
        Ok(())
    })?;
    Ok(items)
}

fn limit<'r>(
    machine: &mut Machine<'_>,
    count: f64,
    filter: &Term,
    env: &Env<'_, 'r>,
    input: Item<'r>,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    let mut left = count;
    if left <= 0.0 {
        return Ok(());
    }
    machine.stopping(|machine, label| {
        machine.eval(filter, env, input, &mut |machine, item| {
            left -= 1.0;
            out(machine, item)?;
            if left <= 0.0 { Err(Stop::Break(label)) } else { Ok(()) }
        })
    })
}

fn range<'r>(
    machine: &mut Machine<'_>,
    env: &Env<'_, 'r>,
    input: &Item<'r>,
    [from, to]: [&Term; 2],
    by: &Term,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    with(machine, from, env, input, &mut |machine, from| {
        with(machine, to, env, input, &mut |machine, to| {
            with(machine, by, env, input, &mut |machine, by| {
                let (mut at, to, by) =
                    (float(&from, "range()")?, float(&to, "range()")?, float(&by, "range()")?);
                while (by > 0.0 && at < to) || (by < 0.0 && at > to) {
                    machine.meter.step()?;
                    machine.made(number(at)?, input, out)?;
                    at += by;
                }
                Ok(())
            })
        })
    })
}

fn by_key<'r>(
    machine: &mut Machine<'_>,
    name: &str,
    key: &Term,
    env: &Env<'_, 'r>,
    input: &Item<'r>,
    out: Out<'_, 'r>,
) -> Flow<'r> {
    let items = array(machine.meter, &input.value, name)?;
    let mut keyed = machine.keyed(Some(key), env, items)?;
    let same = |l: &Value<'_>, r: &Value<'_>| value::order(l, r).is_eq();
    let made = match name {
        "sort_by" => Value::array(keyed.into_iter().map(|(_, item)| item).collect()),
        "unique_by" => {
            keyed.dedup_by(|(l, _), (r, _)| same(l, r));
            Value::array(keyed.into_iter().map(|(_, item)| item).collect())
        }
        "min_by" => keyed.into_iter().next().map_or(Value::Null, |(_, item)| item),
        // The last of several.
        "max_by" => keyed.pop().map_or(Value::Null, |(_, item)| item),
        _ => {
            for group in keyed.chunk_by(|(l, _), (r, _)| same(l, r)) {
                let group = Value::array(group.iter().map(|(_, item)| item.clone()).collect());
                machine.made(group, input, out)?;
            }
            return Ok(());
        }
    };
    machine.made(made, input, out)
}

fn simple<'r>(machine: &mut Machine<'_>, name: &str, input: &Value<'r>) -> Flow<'r, Value<'r>> {
    let count = |things: usize| Value::Int(i64::try_from(things).unwrap_or(i64::MAX));
    Ok(match name {
        "length" => match input {
            Value::Undefined | Value::Null => Value::Int(0),
            Value::Bool(_) => return error("boolean has no length"),
            Value::Str(text) => {
                machine.meter.scan(text.len())?;
                count(text.chars().count())
            }
            Value::Int(_) | Value::Float(_) | Value::BigNumber(_) => number(float(input, name)?.abs())?,
            _ => match elements(machine.meter, input)? {
                Some(items) => count(items.len()),
                None => count(members(machine.meter, input)?.map_or(0, |map| map.len())),
            },
        },
        "utf8bytelength" => count(text(input, name)?.len()),
        "keys" | "keys_unsorted" => {
            if let Some(map) = members(machine.meter, input)? {
                map.keys().try_for_each(|name| machine.meter.bytes(name.len()))?;
                return Ok(Value::array(map.into_keys().map(Value::Str).collect()));
            }
            let items = array(machine.meter, input, name)?;
            Value::array((0..items.len()).map(count).collect())
        }
        "type" => type_name(input).into(),
        "tostring" => value::plain(machine.meter, input)?.into(),
        "tojson" => value::json(machine.meter, input)?.into(),
        "fromjson" => {
            let text = text(input, name)?;
            machine.meter.scan(text.len().saturating_mul(4))?;
            machine.meter.bytes(text.len())?;
            match Value::from_json(text) {
                Ok(value) => value.into_owned(),
                Err(problem) => return error(format!("fromjson: {problem}")),
            }
        }
        "tonumber" => {
            let Value::Str(written) = input else {
                float(input, name)?;
                return Ok(input.clone());
            };
            let Some(number) = crate::operators::as_number(written) else {
                return error(format!("{written:.40} cannot be parsed as a number"));
            };
            number
        }
        "reverse" => match input {
            Value::Undefined | Value::Null => Value::array(Vec::new()),
            Value::Str(text) => {
                machine.meter.bytes(text.len())?;
                text.chars().rev().collect::<String>().into()
            }
            _ => Value::array(array(machine.meter, input, name)?.into_iter().rev().collect()),
        },
        "explode" => {
            let text = text(input, name)?;
            machine.meter.elements(text.len())?;
            Value::array(text.chars().map(|c| Value::Int(u32::from(c).into())).collect())
        }
        "implode" => {
            let mut text = String::new();
            for code in array(machine.meter, input, name)? {
                let code = float(&code, name)?;
                let c = u32::try_from(code as i64).ok().and_then(char::from_u32);
                machine.meter.bytes(4)?;
                text.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            text.into()
        }
        "ascii_downcase" | "ascii_upcase" | "trim" | "ltrim" | "rtrim" => {
            let text = text(input, name)?;
            machine.meter.bytes(text.len())?;
            match name {
                "ascii_downcase" => text.to_ascii_lowercase(),
                "ascii_upcase" => text.to_ascii_uppercase(),
                "trim" => text.trim().to_owned(),
                "ltrim" => text.trim_start().to_owned(),
                _ => text.trim_end().to_owned(),
            }
            .into()
        }
        "isnan" | "isinfinite" => {
            float(input, name)?;
            Value::Bool(false)
        }
        _ => {
            let compute: fn(f64) -> f64 = match name {
                "floor" => f64::floor,
                "ceil" => f64::ceil,
                "round" => f64::round,
                "trunc" => f64::trunc,
                "sqrt" => f64::sqrt,
                "fabs" => f64::abs,
                "log" => f64::ln,
                "log2" => f64::log2,
                "log10" => f64::log10,
                "exp" => f64::exp,
                "exp2" => f64::exp2,
                "exp10" => |x| 10_f64.powf(x),
                "sin" => f64::sin,
                "cos" => f64::cos,
                "tan" => f64::tan,
                "asin" => f64::asin,
                "acos" => f64::acos,
                "atan" => f64::atan,
                _ => return unknown(name, 0),
            };
            number(compute(float(input, name)?))?
        }
    })
}

fn of_one<'r>(
    machine: &mut Machine<'_>,
    name: &str,
    input: &Value<'r>,
    argument: &Value<'r>,
) -> Flow<'r, Value<'r>> {
    Ok(match name {
        "has" => match (input, argument) {
            (map, Value::Str(key)) if map.is_map() => {
                machine.meter.walk(map)?;
                Value::Bool(!map.get(key).is_undefined())
            }
            (array, Value::Int(position)) if array.is_array() => {
                machine.meter.walk(array)?;
                Value::Bool(*position >= 0 && !array.element(position.saturating_add(1)).is_undefined())
            }
            _ => return error(format!("{} has no {}", type_name(input), type_name(argument))),
        },
        "contains" => Value::Bool(contains(machine, input, argument)?),
        "delpaths" => {
            let mut paths = Vec::new();
            for at in array(machine.meter, argument, name)? {
                paths.push(array(machine.meter, &at, name)?);
            }
            path::delete_all(machine.meter, input.clone(), paths)?
        }
        "split" => value::split(machine.meter, text(input, name)?, text(argument, name)?)?,
        "startswith" => Value::Bool(text(input, name)?.starts_with(text(argument, name)?)),
        "endswith" => Value::Bool(text(input, name)?.ends_with(text(argument, name)?)),
        "ltrimstr" | "rtrimstr" => {
            let (Value::Str(whole), Value::Str(part)) = (input, argument) else { return Ok(input.clone()) };
            let rest =
                if name == "ltrimstr" { whole.strip_prefix(&**part) } else { whole.strip_suffix(&**part) };
            machine.meter.bytes(whole.len())?;
            rest.unwrap_or(whole).to_owned().into()
        }
        "indices" => path::indices(machine.meter, input, argument)?,
        "flatten" => {
            let levels = float(argument, name)?;
            if levels < 0.0 {
                return error("flatten depth must not be negative");
            }
            let mut flat = Vec::new();
            let items = array(machine.meter, input, name)?;
            flatten(machine, items, usize::try_from(levels as i64).unwrap_or(0), &mut flat)?;
            Value::array(flat)
        }
        _ => return unknown(name, 1),
    })
}

/// Levels are those of a value, which are bounded.
fn flatten<'r>(
    machine: &mut Machine<'_>,
    items: Vec<Value<'r>>,
    levels: usize,
    flat: &mut Vec<Value<'r>>,
) -> Flow<'r> {
    for item in items {
        if levels > 0
            && let Some(inner) = elements(machine.meter, &item)?
        {
            flatten(machine, inner, levels - 1, flat)?;
        } else {
            machine.meter.elements(1)?;
            flat.push(item);
        }
    }
    Ok(())
}

/// Whether everything in one value is in another: texts as parts, objects member by member.
fn contains<'r>(machine: &mut Machine<'_>, whole: &Value<'r>, part: &Value<'r>) -> Flow<'r, bool> {
    machine.meter.walk(whole)?;
    machine.meter.walk(part)?;
    machine.meter.step()?;
    if let (Value::Str(whole), Value::Str(part)) = (whole, part) {
        return Ok(whole.contains(&**part));
    }
    if let (Some(whole), Some(part)) = (elements(machine.meter, whole)?, elements(machine.meter, part)?) {
        for wanted in &part {
            let mut found = false;
            for item in &whole {
                found = type_name(item) == type_name(wanted) && contains(machine, item, wanted)?;
                if found {
                    break;
                }
            }
            if !found {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if let (Some(whole), Some(part)) = (members(machine.meter, whole)?, members(machine.meter, part)?) {
        for (name, wanted) in &part {
            let Some(item) = whole.get(name) else { return Ok(false) };
            if type_name(item) != type_name(wanted) || !contains(machine, item, wanted)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if type_name(whole) != type_name(part) {
        return error(format!(
            "{} and {} cannot have their containment checked",
            type_name(whole),
            type_name(part)
        ));
    }
    Ok(value::order(whole, part).is_eq())
}

fn of_two<'r>(
    machine: &mut Machine<'_>,
    name: &str,
    input: &Value<'r>,
    first: &Value<'r>,
    second: &Value<'r>,
) -> Flow<'r, Value<'r>> {
    match name {
        "setpath" => {
            let at = array(machine.meter, first, name)?;
            path::set(machine.meter, input.clone(), &at, second.clone())
        }
        "pow" => number(float(first, name)?.powf(float(second, name)?)),
        "atan2" => number(float(first, name)?.atan2(float(second, name)?)),
        "matches" => matches(machine, text(input, "match()")?, text(first, "match()")?, second),
        _ => unknown(name, 2),
    }
}

/// Every match of a pattern as jq describes it, or the first one without the flag `g`.
fn matches<'r>(
    machine: &mut Machine<'_>,
    whole: &str,
    pattern: &str,
    flags: &Value<'r>,
) -> Flow<'r, Value<'r>> {
    /// How many times longer a byte takes to match than to look at.
    const COST: usize = 8;
    let flags = if let Value::Str(flags) = flags { &**flags } else { "" };
    if let Some(unknown) = flags.chars().find(|flag| !"gnxis".contains(*flag)) {
        return error(format!("{unknown} is no flag of a pattern"));
    }
    let kept: String = flags.chars().filter(|flag| "xis".contains(*flag)).collect();
    let pattern = if kept.is_empty() { pattern.to_owned() } else { format!("(?{kept}){pattern}") };
    let meter = &mut *machine.meter;
    let pattern = machine.state.pattern(&pattern, "jq()")?;
    let mut found = Vec::new();
    let mut from = 0;
    // Offsets count characters.
    let (mut counted, mut characters) = (0, 0);
    while from <= whole.len() {
        meter.scan((whole.len() - from).saturating_mul(COST))?;
        let Some(captures) = pattern.captures_at(whole, from) else { break };
        let at = captures.get_match();
        characters += whole[counted..at.start()].chars().count();
        counted = at.start();
        let offset_of = |start: usize| characters + whole[counted..start].chars().count();
        let mut groups = Vec::new();
        for (group, name) in captures.iter().zip(pattern.capture_names()).skip(1) {
            let name = name.map_or(Value::Null, |name| name.to_owned().into());
            meter.elements(4)?;
            meter.scan(at.len())?;
            let group = group.filter(|group| group.start() >= counted);
            groups.push(described(meter, group.map(|g| (g.as_str(), offset_of(g.start()))), Some(name))?);
        }
        let mut one = described(meter, Some((at.as_str(), characters)), None)?;
        if let Value::Map(map) = &mut one {
            std::sync::Arc::make_mut(map).insert("captures".into(), Value::array(groups));
        }
        if !(flags.contains('n') && at.is_empty()) {
            meter.elements(5)?;
            found.push(one);
        }
        if !flags.contains('g') {
            break;
        }
        let next = whole[at.end()..].chars().next().map_or(1, char::len_utf8);
        from = if at.is_empty() { at.end() + next } else { at.end() };
    }
    Ok(Value::array(found))
}

fn described<'r>(
    meter: &mut Meter,
    found: Option<(&str, usize)>,
    name: Option<Value<'r>>,
) -> Flow<'r, Value<'r>> {
    let count = |things: usize| Value::Int(i64::try_from(things).unwrap_or(i64::MAX));
    let (text, offset, length) = match found {
        Some((text, offset)) => {
            meter.bytes(text.len())?;
            (text.to_owned().into(), count(offset), count(text.chars().count()))
        }
        None => (Value::Null, Value::Int(-1), Value::Int(0)),
    };
    let mut map = crate::value::Map::new();
    map.insert("string".into(), text);
    map.insert("offset".into(), offset);
    map.insert("length".into(), length);
    if let Some(name) = name {
        map.insert("name".into(), name);
    }
    Ok(Value::map(map))
}
