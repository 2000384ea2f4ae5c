//! Running a program. Filters give any number of values, each of which is passed on at once, so that a program that
//! could go on for ever can be stopped after the first, and nothing is kept that nobody wants.

use super::builtin;
use super::path;
use super::syntax::{Definition, Format, Operator, Part, Pattern, Term};
use super::value::{self, order};
use crate::error::EvalErrorKind;
use crate::functions::state::State;
use crate::meter::{MAX_VALUE_DEPTH, Meter};
use crate::value::{Map, Value};

/// Filters inside one another while a program runs, which bounds the stack.
const MAX_RUN_DEPTH: usize = 250;

/// Why a filter ends early.
pub(super) enum Stop<'r> {
    /// An error that `try` catches, with what it says.
    Error(Value<'r>),
    /// `break`, up to the label of that number.
    Break(usize),
    /// What no program catches: a limit is reached.
    Fail(EvalErrorKind),
}

pub(super) type Flow<'r, T = ()> = Result<T, Stop<'r>>;

impl From<EvalErrorKind> for Stop<'_> {
    fn from(kind: EvalErrorKind) -> Self {
        Self::Fail(kind)
    }
}

pub(super) fn error<'r, T>(message: impl Into<String>) -> Flow<'r, T> {
    Err(Stop::Error(message.into().into()))
}

/// A value on its way through a program, with its path where the program asks for paths.
#[derive(Clone)]
pub(super) struct Item<'r> {
    pub(super) value: Value<'r>,
    pub(super) path: Option<Vec<Value<'r>>>,
}

impl<'r> Item<'r> {
    pub(super) fn of(value: Value<'r>) -> Self {
        Self { value, path: None }
    }

    /// A step further, to a value that is there.
    pub(super) fn step(&self, key: Value<'r>, value: Value<'r>) -> Self {
        let path = self.path.as_ref().map(|path| path.iter().cloned().chain([key]).collect());
        Self { value, path }
    }
}

/// What takes the values of a filter.
pub(super) type Out<'o, 'r> = &'o mut dyn FnMut(&mut Machine<'_>, Item<'r>) -> Flow<'r>;

/// What a name stands for, and what names there were before it.
pub(super) struct Env<'s, 'r> {
    up: Option<&'s Env<'s, 'r>>,
    binding: Binding<'s, 'r>,
}

enum Binding<'s, 'r> {
    Definition(&'s Definition),
    /// An argument: a filter with the names that it knows.
    Filter(&'s str, &'s Term, &'s Env<'s, 'r>),
    Value(&'s str, Value<'r>),
    Label(&'s str, usize),
    Nothing,
}

impl<'s, 'r> Env<'s, 'r> {
    pub(super) fn empty() -> Self {
        Self { up: None, binding: Binding::Nothing }
    }

    fn with(&'s self, binding: Binding<'s, 'r>) -> Self {
        Self { up: Some(self), binding }
    }

    fn iter(&'s self) -> impl Iterator<Item = &'s Self> {
        std::iter::successors(Some(self), |env| env.up)
    }
}

/// What is left of the limits, and how deep the program is.
pub(super) struct Machine<'m> {
    pub(super) meter: &'m mut Meter,
    pub(super) state: &'m mut State,
    /// The functions that are written in the language itself.
    prelude: &'m [Definition],
    depth: usize,
    labels: usize,
}

impl<'m> Machine<'m> {
    pub(super) fn new(meter: &'m mut Meter, state: &'m mut State, prelude: &'m [Definition]) -> Self {
        Self { meter, state, prelude, depth: 0, labels: 0 }
    }

    /// Gives `out` every value that a filter makes of one.
    pub(super) fn eval<'r>(
        &mut self,
        term: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.meter.step()?;
        if self.depth == MAX_RUN_DEPTH {
            return Err(EvalErrorKind::TooDeep.into());
        }
        self.depth += 1;
        let flow = self.dispatch(term, env, input, out);
        self.depth -= 1;
        flow
    }

    /// Small functions, each with its own frame: this one is on the stack once for each level.
    fn dispatch<'r>(
        &mut self,
        term: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        match term {
            Term::Identity => out(self, input),
            Term::Recurse => builtin::descend(self, input, out),
            Term::Literal(value) => self.constant(value, &input, out),
            Term::Text(format, parts) => self.text(*format, parts, env, &input, String::new(), out),
            Term::Format(format) => self.format(*format, &input, out),
            Term::Variable(name) => self.variable(name, env, &input, out),
            Term::Index(base, index) => self.index(base, index, env, input, out),
            Term::Slice(base, from, to) => self.slice(base, from.as_deref(), to.as_deref(), env, input, out),
            Term::Iterate(base) => self.iterate(base, env, input, out),
            Term::Try(body, handler) => self.attempt(body, handler.as_deref(), env, input, out),
            Term::Pipe(left, right) => self.pipe(left, right, env, input, out),
            Term::Comma(left, right) => self.comma(left, right, env, input, out),
            Term::Negate(inner) => self.negate(inner, env, &input, out),
            Term::Binary(operator, left, right) => self.binary(*operator, left, right, env, &input, out),
            Term::And(left, right) => self.logic(false, left, right, env, &input, out),
            Term::Or(left, right) => self.logic(true, left, right, env, &input, out),
            Term::Alternative(left, right) => self.alternative(left, right, env, input, out),
            Term::Assign(target, value) => self.assign(target, value, env, &input, out),
            Term::Update(target, change) => self.update(target, change, env, input, out),
            Term::Compute(operator, target, value) => {
                self.compute(*operator, target, value, env, &input, out)
            }
            Term::Array(body) => self.array(body.as_deref(), env, &input, out),
            Term::Object(members) => self.object(members, env, &input, Map::new(), out),
            Term::If(branches, otherwise) => self.choose(branches, otherwise.as_deref(), env, input, out),
            Term::Bind(source, pattern, body) => self.binding(source, pattern, body, env, &input, out),
            Term::Reduce(source, pattern, init, update) => {
                self.reduce(source, pattern, init, update, env, &input, out)
            }
            Term::Foreach(source, pattern, init, update, extract) => {
                self.foreach(source, pattern, [init, update], extract.as_deref(), env, &input, out)
            }
            Term::Label(name, body) => self
                .stopping(|this, label| this.eval(body, &env.with(Binding::Label(name, label)), input, out)),
            Term::Break(name) => broken(name, env),
            Term::Define(definition, body) => self.define(definition, body, env, input, out),
            Term::Call(name, arguments) => self.call(name, arguments, env, input, out),
        }
    }

    fn iterate<'r>(&mut self, base: &Term, env: &Env<'_, 'r>, input: Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
        self.eval(base, env, input, &mut |this, item| path::iterate(this, &item, out))
    }

    fn pipe<'r>(
        &mut self,
        left: &Term,
        right: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(left, env, input, &mut |this, item| this.eval(right, env, item, out))
    }

    fn comma<'r>(
        &mut self,
        left: &Term,
        right: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(left, env, input.clone(), out)?;
        self.eval(right, env, input, out)
    }

    fn negate<'r>(
        &mut self,
        inner: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(inner, env, Item::of(input.value.clone()), &mut |this, item| {
            let value = value::negate(&item.value)?;
            this.made(value, input, out)
        })
    }

    fn array<'r>(
        &mut self,
        body: Option<&Term>,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let items = body.map_or(Ok(Vec::new()), |body| self.collect(body, env, &input.value))?;
        let array = Value::array(items);
        self.meter.make(&array)?;
        self.made(array, input, out)
    }

    fn binding<'r>(
        &mut self,
        source: &Term,
        pattern: &Pattern,
        body: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(source, env, Item::of(input.value.clone()), &mut |this, item| {
            this.bind(&[(pattern, item.value)], env, &mut |this, env| {
                this.eval(body, env, input.clone(), out)
            })
        })
    }

    fn define<'r>(
        &mut self,
        definition: &Definition,
        body: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(body, &env.with(Binding::Definition(definition)), input, out)
    }

    /// All values of a filter.
    pub(super) fn collect<'r>(
        &mut self,
        term: &Term,
        env: &Env<'_, 'r>,
        input: &Value<'r>,
    ) -> Flow<'r, Vec<Value<'r>>> {
        let mut items = Vec::new();
        self.eval(term, env, Item::of(input.clone()), &mut |this, item| {
            this.meter.elements(1)?;
            items.push(item.value);
            Ok(())
        })?;
        Ok(items)
    }

    /// Ends the filter after what `out` takes as the last value.
    pub(super) fn stopping<'r>(&mut self, run: impl FnOnce(&mut Self, usize) -> Flow<'r>) -> Flow<'r> {
        self.labels += 1;
        let label = self.labels;
        match run(self, label) {
            Err(Stop::Break(broken)) if broken == label => Ok(()),
            flow => flow,
        }
    }

    /// A value that has no path, because it is made and not found.
    pub(super) fn made<'r>(&mut self, value: Value<'r>, input: &Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
        if input.path.is_some() {
            return error(format!("{} made here has no path", value::type_name(&value)));
        }
        out(self, Item::of(value))
    }

    fn constant<'r>(&mut self, value: &Value<'static>, input: &Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
        if let Value::Str(text) = value {
            self.meter.bytes(text.len())?;
        }
        self.made(value.clone(), input, out)
    }

    fn variable<'r>(
        &mut self,
        name: &str,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let found = env.iter().find_map(|env| match &env.binding {
            Binding::Value(known, value) if *known == name => Some(value.clone()),
            _ => None,
        });
        match found {
            Some(value) => self.made(value, input, out),
            None => error(format!("${name} is not defined")),
        }
    }

    fn format<'r>(&mut self, format: Format, input: &Item<'r>, out: Out<'_, 'r>) -> Flow<'r> {
        let text = value::format(self.meter, format, &input.value)?;
        self.made(text.into(), input, out)
    }

    /// What is interpolated may have several values, each of which makes a text.
    fn text<'r>(
        &mut self,
        format: Format,
        parts: &[Part],
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        done: String,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        match parts {
            [] => self.made(done.into(), input, out),
            [Part::Text(text), rest @ ..] => {
                self.meter.bytes(text.len())?;
                self.text(format, rest, env, input, done + text, out)
            }
            [Part::Hole(term), rest @ ..] => {
                self.eval(term, env, Item::of(input.value.clone()), &mut |this, item| {
                    let text = value::format(this.meter, format, &item.value)?;
                    this.meter.bytes(done.len())?;
                    this.text(format, rest, env, input, done.clone() + &text, out)
                })
            }
        }
    }

    fn index<'r>(
        &mut self,
        base: &Term,
        index: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let from = input.value.clone();
        self.eval(base, env, input, &mut |this, item| {
            this.eval(index, env, Item::of(from.clone()), &mut |this, index| {
                let value = path::get(this.meter, &item.value, &index.value)?;
                out(this, item.step(index.value, value))
            })
        })
    }

    fn slice<'r>(
        &mut self,
        base: &Term,
        from: Option<&Term>,
        to: Option<&Term>,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        const NULL: &Term = &Term::Literal(Value::Null);
        let context = Item::of(input.value.clone());
        self.eval(base, env, input, &mut |this, item| {
            this.eval(to.unwrap_or(NULL), env, context.clone(), &mut |this, to| {
                this.eval(from.unwrap_or(NULL), env, context.clone(), &mut |this, from| {
                    let bounds = [("start".into(), from.value), ("end".into(), to.value.clone())];
                    let key = Value::map(bounds.into_iter().collect());
                    let value = path::get(this.meter, &item.value, &key)?;
                    out(this, item.step(key, value))
                })
            })
        })
    }

    fn attempt<'r>(
        &mut self,
        body: &Term,
        handler: Option<&Term>,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        // An error of what takes the values is not one of the body.
        let mut passed = None;
        let depth = self.depth;
        let flow = self.eval(body, env, input, &mut |this, item| {
            out(this, item).map_err(|stop| {
                passed = Some(stop);
                Stop::Break(0)
            })
        });
        self.depth = depth;
        match (passed, flow) {
            (Some(stop), _) => Err(stop),
            (None, Err(Stop::Error(message))) => {
                // `error(null)` is caught and says nothing.
                match handler {
                    Some(handler) => self.eval(handler, env, Item::of(message), out),
                    None => Ok(()),
                }
            }
            (None, flow) => flow,
        }
    }

    fn binary<'r>(
        &mut self,
        operator: Operator,
        left: &Term,
        right: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(right, env, Item::of(input.value.clone()), &mut |this, right| {
            this.eval(left, env, Item::of(input.value.clone()), &mut |this, left| {
                let value = value::binary(this.meter, operator, &left.value, &right.value)?;
                this.made(value, input, out)
            })
        })
    }

    /// `or` ends with a true left side, `and` with a false one.
    fn logic<'r>(
        &mut self,
        decisive: bool,
        left: &Term,
        right: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(left, env, Item::of(input.value.clone()), &mut |this, left| {
            if value::is_true(&left.value) == decisive {
                return this.made(decisive.into(), input, out);
            }
            this.eval(right, env, Item::of(input.value.clone()), &mut |this, right| {
                this.made(value::is_true(&right.value).into(), input, out)
            })
        })
    }

    /// The values of the left side that are neither false nor null, or else those of the right side.
    fn alternative<'r>(
        &mut self,
        left: &Term,
        right: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let mut any = false;
        let mut passed = None;
        let depth = self.depth;
        let flow = self.eval(left, env, input.clone(), &mut |this, item| {
            if !value::is_true(&item.value) {
                return Ok(());
            }
            any = true;
            out(this, item).map_err(|stop| {
                passed = Some(stop);
                Stop::Break(0)
            })
        });
        self.depth = depth;
        match (passed, flow) {
            (Some(stop), _) => Err(stop),
            (None, Err(Stop::Error(_)) | Ok(())) if any => Ok(()),
            (None, Err(Stop::Error(_)) | Ok(())) => self.eval(right, env, input, out),
            (None, flow) => flow,
        }
    }

    fn object<'r>(
        &mut self,
        members: &[(Term, Term)],
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        done: Map<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let Some(((key, value), rest)) = members.split_first() else {
            return self.made(Value::map(done), input, out);
        };
        self.eval(key, env, Item::of(input.value.clone()), &mut |this, key| {
            this.eval(value, env, Item::of(input.value.clone()), &mut |this, value| {
                let Value::Str(name) = key.value.clone() else {
                    return error("a name in an object has to be a text");
                };
                this.meter.elements(done.len() + 1)?;
                this.meter.make_within(&value.value, MAX_VALUE_DEPTH - 1)?;
                this.meter.bytes(name.len())?;
                let mut done = done.clone();
                done.insert(name, value.value);
                this.object(rest, env, input, done, out)
            })
        })
    }

    fn choose<'r>(
        &mut self,
        branches: &[(Term, Term)],
        otherwise: Option<&Term>,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let Some(((condition, body), rest)) = branches.split_first() else {
            return match otherwise {
                Some(otherwise) => self.eval(otherwise, env, input, out),
                None => out(self, input),
            };
        };
        self.eval(condition, env, Item::of(input.value.clone()), &mut |this, item| {
            if value::is_true(&item.value) {
                this.eval(body, env, input.clone(), out)
            } else {
                this.choose(rest, otherwise, env, input.clone(), out)
            }
        })
    }

    /// Gives the names of patterns their values.
    fn bind<'r>(
        &mut self,
        patterns: &[(&Pattern, Value<'r>)],
        env: &Env<'_, 'r>,
        body: &mut dyn FnMut(&mut Self, &Env<'_, 'r>) -> Flow<'r>,
    ) -> Flow<'r> {
        let Some(((pattern, value), rest)) = patterns.split_first() else { return body(self, env) };
        match pattern {
            Pattern::Name(name) => self.bind(rest, &env.with(Binding::Value(name, value.clone())), body),
            Pattern::Array(items) => {
                let mut all = Vec::new();
                for (position, item) in items.iter().enumerate() {
                    let position = Value::Int(i64::try_from(position).unwrap_or(i64::MAX));
                    all.push((item, path::get(self.meter, value, &position)?));
                }
                all.extend(rest.iter().map(|(pattern, value)| (*pattern, value.clone())));
                self.bind(&all, env, body)
            }
            Pattern::Object(members) => {
                let mut all = Vec::new();
                for (key, item) in members {
                    let mut keys = self.collect(key, env, value)?;
                    let key = keys.pop().unwrap_or_default();
                    all.push((item, path::get(self.meter, value, &key)?));
                }
                all.extend(rest.iter().map(|(pattern, value)| (*pattern, value.clone())));
                self.bind(&all, env, body)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what the text of a reduce has")]
    fn reduce<'r>(
        &mut self,
        source: &Term,
        pattern: &Pattern,
        init: &Term,
        update: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(init, env, Item::of(input.value.clone()), &mut |this, init| {
            let mut state = init.value;
            this.eval(source, env, Item::of(input.value.clone()), &mut |this, item| {
                this.bind(&[(pattern, item.value)], env, &mut |this, env| {
                    let before = Item::of(std::mem::take(&mut state));
                    let mut last = Value::Null;
                    this.eval(update, env, before, &mut |_, item| {
                        last = item.value;
                        Ok(())
                    })?;
                    state = last;
                    Ok(())
                })
            })?;
            this.made(state, input, out)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what the text of a foreach has")]
    fn foreach<'r>(
        &mut self,
        source: &Term,
        pattern: &Pattern,
        [init, update]: [&Term; 2],
        extract: Option<&Term>,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(init, env, Item::of(input.value.clone()), &mut |this, init| {
            let mut state = init.value;
            this.eval(source, env, Item::of(input.value.clone()), &mut |this, item| {
                this.bind(&[(pattern, item.value)], env, &mut |this, env| {
                    let before = Item::of(state.clone());
                    this.eval(update, env, before, &mut |this, item| {
                        state = item.value.clone();
                        match extract {
                            Some(extract) => this.eval(extract, env, item, out),
                            None => out(this, item),
                        }
                    })
                })
            })
        })
    }

    /// The paths of a filter in a value.
    pub(super) fn paths<'r>(
        &mut self,
        term: &Term,
        env: &Env<'_, 'r>,
        value: &Value<'r>,
    ) -> Flow<'r, Vec<Vec<Value<'r>>>> {
        let mut paths = Vec::new();
        let start = Item { value: value.clone(), path: Some(Vec::new()) };
        self.eval(term, env, start, &mut |this, item| {
            let path = item.path.unwrap_or_default();
            this.meter.elements(path.len() + 1)?;
            paths.push(path);
            Ok(())
        })?;
        Ok(paths)
    }

    fn assign<'r>(
        &mut self,
        target: &Term,
        value: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(value, env, Item::of(input.value.clone()), &mut |this, new| {
            let mut root = input.value.clone();
            for at in this.paths(target, env, &root)? {
                root = path::set(this.meter, root, &at, new.value.clone())?;
            }
            this.made(root, input, out)
        })
    }

    /// Each place gets the first value that the change makes of it, or goes where there is none.
    fn update<'r>(
        &mut self,
        target: &Term,
        change: &Term,
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let paths = self.paths(target, env, &input.value)?;
        let Item { value: mut root, path } = input;
        let mut gone = Vec::new();
        for at in paths {
            let before = path::get_path(self.meter, root.clone(), &at)?;
            let mut after = None;
            self.stopping(|this, label| {
                this.eval(change, env, Item::of(before), &mut |_, item| {
                    after = Some(item.value);
                    Err(Stop::Break(label))
                })
            })?;
            match after {
                Some(after) => root = path::set(self.meter, root, &at, after)?,
                None => gone.push(at),
            }
        }
        root = path::delete_all(self.meter, root, gone)?;
        self.made(root, &Item { value: Value::Null, path }, out)
    }

    /// `target += value`: the value is that of the whole input.
    fn compute<'r>(
        &mut self,
        operator: Option<Operator>,
        target: &Term,
        value: &Term,
        env: &Env<'_, 'r>,
        input: &Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        self.eval(value, env, Item::of(input.value.clone()), &mut |this, new| {
            let mut root = input.value.clone();
            for at in this.paths(target, env, &root)? {
                let before = path::get_path(this.meter, root.clone(), &at)?;
                let after = match operator {
                    Some(operator) => value::binary(this.meter, operator, &before, &new.value)?,
                    None if value::is_true(&before) => continue,
                    None => new.value.clone(),
                };
                root = path::set(this.meter, root, &at, after)?;
            }
            this.made(root, input, out)
        })
    }

    fn call<'r>(
        &mut self,
        name: &str,
        arguments: &[Term],
        env: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        for scope in env.iter() {
            match scope.binding {
                Binding::Filter(known, term, env) if known == name && arguments.is_empty() => {
                    return self.eval(term, env, input, out);
                }
                Binding::Definition(found)
                    if &*found.name == name && found.parameters.len() == arguments.len() =>
                {
                    return self.apply(found, &found.parameters, arguments, scope, env, input, out);
                }
                _ => {}
            }
        }
        let prelude = self.prelude;
        let known = |d: &&Definition| &*d.name == name && d.parameters.len() == arguments.len();
        match prelude.iter().find(known) {
            Some(found) => self.apply(found, &found.parameters, arguments, &Env::empty(), env, input, out),
            None => builtin::call(self, name, arguments, env, input, out),
        }
    }

    /// Binds parameters one after the other; one that is a value makes a call for each of its values.
    #[expect(clippy::too_many_arguments, reason = "both what the definition and what the caller knows")]
    fn apply<'r>(
        &mut self,
        definition: &Definition,
        parameters: &[Box<str>],
        arguments: &[Term],
        scope: &Env<'_, 'r>,
        caller: &Env<'_, 'r>,
        input: Item<'r>,
        out: Out<'_, 'r>,
    ) -> Flow<'r> {
        let (Some((parameter, parameters)), Some((argument, arguments))) =
            (parameters.split_first(), arguments.split_first())
        else {
            return self.eval(&definition.body, scope, input, out);
        };
        let Some(name) = parameter.strip_prefix('$') else {
            let scope = scope.with(Binding::Filter(parameter, argument, caller));
            return self.apply(definition, parameters, arguments, &scope, caller, input, out);
        };
        self.eval(argument, caller, Item::of(input.value.clone()), &mut |this, item| {
            let scope = scope.with(Binding::Value(name, item.value));
            this.apply(definition, parameters, arguments, &scope, caller, input.clone(), out)
        })
    }

    /// Sorts values by what a filter makes of them.
    pub(super) fn keyed<'r>(
        &mut self,
        key: Option<&Term>,
        env: &Env<'_, 'r>,
        items: Vec<Value<'r>>,
    ) -> Flow<'r, Vec<(Value<'r>, Value<'r>)>> {
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            let by = match key {
                Some(key) => Value::array(self.collect(key, env, &item)?),
                None => item.clone(),
            };
            self.meter.walk(&by)?;
            keyed.push((by, item));
        }
        for _ in 0..usize::BITS - keyed.len().leading_zeros() {
            keyed.iter().try_for_each(|(by, _)| self.meter.walk(by))?;
            self.meter.steps(keyed.len())?;
        }
        keyed.sort_by(|(l, _), (r, _)| order(l, r));
        Ok(keyed)
    }
}

fn broken<'r>(name: &str, env: &Env<'_, 'r>) -> Flow<'r> {
    let label = env.iter().find_map(|env| match env.binding {
        Binding::Label(known, label) if known == name => Some(label),
        _ => None,
    });
    label.map_or_else(|| error(format!("${name} is no label")), |label| Err(Stop::Break(label)))
}
