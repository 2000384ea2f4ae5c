//! A jq program as a tree.

use crate::value::Value;

/// Levels of a program's text in one another: brackets, operators, pipes.
const MAX_PROGRAM_DEPTH: usize = 64;

/// Operators and steps that lean to the left, as in `.a.b + 1 + 2`, in a whole program. Each makes the tree one higher
/// without a bracket in the text.
const MAX_LEFT_STEPS: usize = 500;

/// Bytes of a program's text.
const MAX_PROGRAM_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) enum Term {
    /// `.`
    Identity,
    /// `..`
    Recurse,
    Literal(Value<'static>),
    /// `"a\(.b)c"`, each hole written by a format.
    Text(Format, Vec<Part>),
    /// `@base64`
    Format(Format),
    /// `$name`
    Variable(Box<str>),
    /// `base[index]` or `base.name`
    Index(Box<Term>, Box<Term>),
    /// `base[from:to]`
    Slice(Box<Term>, Option<Box<Term>>, Option<Box<Term>>),
    /// `base[]`
    Iterate(Box<Term>),
    /// `body?` or `try body catch handler`
    Try(Box<Term>, Option<Box<Term>>),
    Pipe(Box<Term>, Box<Term>),
    Comma(Box<Term>, Box<Term>),
    Negate(Box<Term>),
    Binary(Operator, Box<Term>, Box<Term>),
    And(Box<Term>, Box<Term>),
    Or(Box<Term>, Box<Term>),
    /// `left // right`
    Alternative(Box<Term>, Box<Term>),
    /// `target = value`
    Assign(Box<Term>, Box<Term>),
    /// `target |= change`
    Update(Box<Term>, Box<Term>),
    /// `target += value`, or `target //= value` without an operator.
    Compute(Option<Operator>, Box<Term>, Box<Term>),
    /// `[body]`
    Array(Option<Box<Term>>),
    Object(Vec<(Term, Term)>),
    If(Vec<(Term, Term)>, Option<Box<Term>>),
    /// `source as pattern | body`
    Bind(Box<Term>, Pattern, Box<Term>),
    Reduce(Box<Term>, Pattern, Box<Term>, Box<Term>),
    Foreach(Box<Term>, Pattern, Box<Term>, Box<Term>, Option<Box<Term>>),
    /// `label $name | body`
    Label(Box<str>, Box<Term>),
    /// `break $name`
    Break(Box<str>),
    /// `def name(parameters): definition; body`
    Define(Box<Definition>, Box<Term>),
    Call(Box<str>, Vec<Term>),
}

impl Term {
    /// Shows every term of it, outermost first.
    pub(crate) fn visit<'t>(&'t self, look: &mut dyn FnMut(&'t Self)) {
        look(self);
        for child in self.children() {
            child.visit(look);
        }
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Identity
            | Self::Recurse
            | Self::Literal(_)
            | Self::Format(_)
            | Self::Variable(_)
            | Self::Break(_)
            | Self::Array(None) => Vec::new(),
            Self::Iterate(inner) | Self::Negate(inner) | Self::Array(Some(inner)) | Self::Label(_, inner) => {
                vec![inner]
            }
            Self::Index(left, right)
            | Self::Pipe(left, right)
            | Self::Comma(left, right)
            | Self::Binary(_, left, right)
            | Self::And(left, right)
            | Self::Or(left, right)
            | Self::Alternative(left, right)
            | Self::Assign(left, right)
            | Self::Update(left, right)
            | Self::Compute(_, left, right) => vec![left, right],
            Self::Text(_, parts) => {
                let holes = parts.iter().filter_map(|part| match part {
                    Part::Hole(term) => Some(term),
                    Part::Text(_) => None,
                });
                holes.collect()
            }
            Self::Slice(base, from, to) => {
                [Some(base), from.as_ref(), to.as_ref()].into_iter().flatten().map(|t| &**t).collect()
            }
            Self::Try(body, handler) => {
                [Some(body), handler.as_ref()].into_iter().flatten().map(|t| &**t).collect()
            }
            Self::Object(members) => members.iter().flat_map(|(key, value)| [key, value]).collect(),
            Self::If(branches, otherwise) => {
                let branches = branches.iter().flat_map(|(condition, body)| [condition, body]);
                branches.chain(otherwise.as_deref()).collect()
            }
            Self::Bind(source, pattern, body) => {
                pattern.keys().into_iter().chain([&**source, &**body]).collect()
            }
            Self::Reduce(source, pattern, init, update) => {
                pattern.keys().into_iter().chain([&**source, &**init, &**update]).collect()
            }
            Self::Foreach(source, pattern, init, update, extract) => {
                let parts = [&**source, &**init, &**update].into_iter().chain(extract.as_deref());
                pattern.keys().into_iter().chain(parts).collect()
            }
            Self::Define(definition, body) => vec![&definition.body, &**body],
            Self::Call(_, arguments) => arguments.iter().collect(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Definition {
    pub(super) name: Box<str>,
    /// Those that begin with `$` are values, others are filters.
    pub(super) parameters: Vec<Box<str>>,
    pub(super) body: Term,
}

#[derive(Debug)]
pub(crate) enum Part {
    Text(Box<str>),
    Hole(Term),
}

#[derive(Debug)]
pub(crate) enum Pattern {
    Name(Box<str>),
    Array(Vec<Pattern>),
    Object(Vec<(Term, Pattern)>),
}

impl Pattern {
    /// The terms by which it finds members.
    fn keys(&self) -> Vec<&Term> {
        match self {
            Self::Name(_) => Vec::new(),
            Self::Array(items) => items.iter().flat_map(Self::keys).collect(),
            Self::Object(members) => {
                members.iter().flat_map(|(key, item)| [key].into_iter().chain(item.keys())).collect()
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// How `@name` writes a value into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    Csv,
    Tsv,
    Html,
    Uri,
    Sh,
    Base64,
    Base64Decode,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "text" => Self::Text,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "html" => Self::Html,
            "uri" => Self::Uri,
            "sh" => Self::Sh,
            "base64" => Self::Base64,
            "base64d" => Self::Base64Decode,
            _ => return None,
        })
    }
}

/// Why a text is no program, and at which byte.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(super) at: usize,
    pub(super) expected: &'static str,
}

type Parsed<T> = Result<T, SyntaxError>;

/// Reads a program.
pub(super) fn parse(text: &str) -> Parsed<Term> {
    if text.len() > MAX_PROGRAM_BYTES {
        return Err(SyntaxError { at: MAX_PROGRAM_BYTES, expected: "a program of at most 16 KiB" });
    }
    let mut parser = Parser { text, at: 0, depth: 0, left_steps: 0 };
    parser.blanks();
    if parser.rest().is_empty() {
        return Ok(Term::Identity);
    }
    let term = parser.pipe()?;
    if parser.rest().is_empty() { Ok(term) } else { parser.fail("an operator or the end") }
}

/// Binary operators from loose to tight, beside the pipe and the comma. None of a level may follow another one, but
/// for those that say to which side they lean.
const LEVELS: [(&[&str], Side); 7] = [
    (&["//"], Side::Right),
    (&["=", "|=", "+=", "-=", "*=", "/=", "%=", "//="], Side::None),
    (&["or"], Side::Left),
    (&["and"], Side::Left),
    (&["==", "!=", "<=", ">=", "<", ">"], Side::None),
    (&["+", "-"], Side::Left),
    (&["*", "/", "%"], Side::Left),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    None,
}

/// Everything that an operator may be, the longest first.
const SYMBOLS: [&str; 20] = [
    "//=", "?//", "|=", "+=", "-=", "*=", "/=", "%=", "==", "!=", "<=", ">=", "//", "=", "<", ">", "+", "-",
    "*", "/",
];

const KEYWORDS: [&str; 17] = [
    "def", "if", "then", "elif", "else", "end", "as", "reduce", "foreach", "try", "catch", "label", "import",
    "include", "and", "or", "__loc__",
];

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    left_steps: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, expected: &'static str) -> Parsed<T> {
        Err(SyntaxError { at: self.at, expected })
    }

    /// One level further in.
    fn within<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_PROGRAM_DEPTH {
            return self.fail("a program of at most 64 levels");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Before a term becomes the left part of another one.
    fn lean(&mut self) -> Parsed<()> {
        self.left_steps += 1;
        if self.left_steps > MAX_LEFT_STEPS { self.fail("at most 500 operators and steps") } else { Ok(()) }
    }

    fn blanks(&mut self) {
        loop {
            let rest = self.rest().trim_start();
            self.at = self.text.len() - rest.len();
            let Some(comment) = rest.strip_prefix('#') else { return };
            self.at += 1 + comment.find('\n').unwrap_or(comment.len());
        }
    }

    /// The operator that comes next, without taking it.
    fn symbol(&self) -> Option<&'static str> {
        let rest = self.rest();
        if rest.starts_with('%') {
            return Some(if rest.starts_with("%=") { "%=" } else { "%" });
        }
        SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol))
    }

    /// Takes a character and the blanks after it.
    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
            self.blanks();
        }
        found
    }

    fn need(&mut self, text: &str, expected: &'static str) -> Parsed<()> {
        if self.take(text) { Ok(()) } else { self.fail(expected) }
    }

    /// The word that comes next: letters, digits, `_` and `::`.
    fn peek_word(&self) -> Option<&'t str> {
        let rest = self.rest();
        let first = rest.chars().next().filter(|c| c.is_ascii_alphabetic() || *c == '_')?;
        let end = rest[first.len_utf8()..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        Some(&rest[..end.map_or(rest.len(), |end| end + 1)])
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.peek_word() == Some(word) && self.take(word)
    }

    fn need_word(&mut self, word: &str, expected: &'static str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { self.fail(expected) }
    }

    fn name(&mut self, expected: &'static str) -> Parsed<Box<str>> {
        match self.peek_word() {
            Some(word) => {
                self.take(word);
                Ok(word.into())
            }
            None => self.fail(expected),
        }
    }

    fn variable(&mut self) -> Parsed<Box<str>> {
        if !self.rest().starts_with('$') {
            return self.fail("a variable as $name");
        }
        self.at += 1;
        self.name("a variable as $name")
    }

    /// Definitions, `as`, pipes.
    fn pipe(&mut self) -> Parsed<Term> {
        self.within(|this| {
            if this.take_word("def") {
                let definition = this.definition()?;
                return Ok(Term::Define(Box::new(definition), Box::new(this.pipe()?)));
            }
            if this.take_word("label") {
                let name = this.variable()?;
                this.need("|", "|")?;
                return Ok(Term::Label(name, Box::new(this.pipe()?)));
            }
            let left = this.comma()?;
            if this.rest().starts_with("|=") || !this.take("|") {
                return Ok(left);
            }
            Ok(Term::Pipe(Box::new(left), Box::new(this.pipe()?)))
        })
    }

    fn definition(&mut self) -> Parsed<Definition> {
        let name = self.name("a name")?;
        let mut parameters = Vec::new();
        if self.take("(") {
            loop {
                let is_value = self.rest().starts_with('$');
                self.at += usize::from(is_value);
                let name = self.name("a parameter")?;
                parameters.push(if is_value { format!("${name}").into() } else { name });
                if self.take(")") {
                    break;
                }
                self.need(";", "; or )")?;
            }
        }
        self.need(":", ":")?;
        let body = self.pipe()?;
        self.need(";", ";")?;
        Ok(Definition { name, parameters, body })
    }

    fn comma(&mut self) -> Parsed<Term> {
        let mut left = self.binary(0)?;
        while self.take(",") {
            self.lean()?;
            left = Term::Comma(Box::new(left), Box::new(self.binary(0)?));
        }
        Ok(left)
    }

    fn binary(&mut self, level: usize) -> Parsed<Term> {
        let Some((operators, side)) = LEVELS.get(level) else { return self.postfix() };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = self.symbol().or_else(|| self.peek_word());
            let Some(operator) = found.filter(|found| operators.contains(found)) else { return Ok(left) };
            self.take(operator);
            self.lean()?;
            let right = match side {
                Side::Right => self.within(|this| this.binary(level))?,
                _ => self.binary(level + 1)?,
            };
            left = join(operator, left, right);
            if *side == Side::None {
                return Ok(left);
            }
        }
    }

    fn postfix(&mut self) -> Parsed<Term> {
        let mut term = self.within(Self::primary)?;
        loop {
            let rest = self.rest();
            if rest.starts_with("?//") {
                return self.fail("no ?//");
            } else if self.take("?") {
                term = Term::Try(Box::new(term), None);
            } else if rest.starts_with('[') {
                term = self.brackets(term)?;
            } else if rest.starts_with(".[") {
                self.take(".");
                term = self.brackets(term)?;
            } else if rest.starts_with(".\"") {
                self.at += 1;
                term = Term::Index(Box::new(term), Box::new(self.text(Format::Text)?));
            } else if rest.starts_with('.')
                && rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            {
                self.at += 1;
                term = Term::Index(Box::new(term), Box::new(self.key()?));
            } else if self.peek_word() == Some("as") {
                self.take_word("as");
                let pattern = self.pattern()?;
                self.need("|", "|")?;
                let body = self.pipe()?;
                return Ok(Term::Bind(Box::new(term), pattern, Box::new(body)));
            } else {
                return Ok(term);
            }
            self.lean()?;
        }
    }

    /// A name as a text.
    fn key(&mut self) -> Parsed<Term> {
        Ok(Term::Literal(String::from(self.name("a name")?).into()))
    }

    /// `[index]`, `[from:to]` or `[]` after a term.
    fn brackets(&mut self, base: Term) -> Parsed<Term> {
        self.need("[", "[")?;
        let base = Box::new(base);
        if self.take("]") {
            return Ok(Term::Iterate(base));
        }
        if self.take(":") {
            let to = self.pipe()?;
            self.need("]", "]")?;
            return Ok(Term::Slice(base, None, Some(Box::new(to))));
        }
        let index = Box::new(self.pipe()?);
        if self.take(":") {
            if self.take("]") {
                return Ok(Term::Slice(base, Some(index), None));
            }
            let to = self.pipe()?;
            self.need("]", "]")?;
            return Ok(Term::Slice(base, Some(index), Some(Box::new(to))));
        }
        self.need("]", "]")?;
        Ok(Term::Index(base, index))
    }

    fn primary(&mut self) -> Parsed<Term> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return self.fail("a filter") };
        match first {
            '.' if self.take("..") => Ok(Term::Recurse),
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            '.' if rest[1..].starts_with('"') => {
                self.at += 1;
                Ok(Term::Index(Box::new(Term::Identity), Box::new(self.text(Format::Text)?)))
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                self.at += 1;
                Ok(Term::Index(Box::new(Term::Identity), Box::new(self.key()?)))
            }
            '.' => {
                self.take(".");
                Ok(Term::Identity)
            }
            '0'..='9' => self.number(),
            '"' => self.text(Format::Text),
            '@' => {
                self.at += 1;
                let start = self.at;
                let name = self.name("a format")?;
                let Some(format) = Format::named(&name) else {
                    self.at = start;
                    return self.fail("a format as @base64");
                };
                if self.rest().starts_with('"') { self.text(format) } else { Ok(Term::Format(format)) }
            }
            '$' => Ok(Term::Variable(self.variable()?)),
            '(' => {
                self.take("(");
                let inner = self.pipe()?;
                self.need(")", ")")?;
                Ok(inner)
            }
            '[' => {
                self.take("[");
                if self.take("]") {
                    return Ok(Term::Array(None));
                }
                let inner = self.pipe()?;
                self.need("]", "]")?;
                Ok(Term::Array(Some(Box::new(inner))))
            }
            '{' => self.object(),
            '-' => {
                self.take("-");
                Ok(Term::Negate(Box::new(self.postfix()?)))
            }
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Parsed<Term> {
        let start = self.at;
        let name = self.name("a filter")?;
        match &*name {
            "if" => self.choice(),
            "try" => {
                let body = Box::new(self.within(Self::after_try)?);
                let handler = self.take_word("catch").then(|| self.within(Self::after_try)).transpose()?;
                Ok(Term::Try(body, handler.map(Box::new)))
            }
            "reduce" => {
                let (source, pattern) = self.source()?;
                let init = self.pipe()?;
                self.need(";", ";")?;
                let update = self.pipe()?;
                self.need(")", ")")?;
                Ok(Term::Reduce(source, pattern, Box::new(init), Box::new(update)))
            }
            "foreach" => {
                let (source, pattern) = self.source()?;
                let init = self.pipe()?;
                self.need(";", ";")?;
                let update = self.pipe()?;
                let extract = self.take(";").then(|| self.pipe()).transpose()?;
                self.need(")", ")")?;
                let extract = extract.map(Box::new);
                Ok(Term::Foreach(source, pattern, Box::new(init), Box::new(update), extract))
            }
            "break" => Ok(Term::Break(self.variable()?)),
            "def" => {
                let definition = self.definition()?;
                Ok(Term::Define(Box::new(definition), Box::new(self.pipe()?)))
            }
            "null" => Ok(Term::Literal(Value::Null)),
            "true" => Ok(Term::Literal(Value::Bool(true))),
            "false" => Ok(Term::Literal(Value::Bool(false))),
            word if KEYWORDS.contains(&word) => {
                self.at = start;
                self.fail("a filter")
            }
            _ => {
                let mut arguments = Vec::new();
                if self.take("(") {
                    loop {
                        arguments.push(self.pipe()?);
                        if self.take(")") {
                            break;
                        }
                        self.need(";", "; or )")?;
                    }
                }
                Ok(Term::Call(name, arguments))
            }
        }
    }

    /// `try` takes a term with what follows it directly.
    fn after_try(&mut self) -> Parsed<Term> {
        self.postfix()
    }

    fn source(&mut self) -> Parsed<(Box<Term>, Pattern)> {
        // `as` belongs to the word before it, so a bare postfix would take it.
        let mut term = self.within(Self::primary)?;
        while self.rest().starts_with(['[', '.', '?']) {
            self.lean()?;
            let rest = self.rest();
            term = if self.take("?") {
                Term::Try(Box::new(term), None)
            } else if rest.starts_with('[') {
                self.brackets(term)?
            } else if rest.starts_with(".[") {
                self.take(".");
                self.brackets(term)?
            } else {
                self.at += 1;
                let key = if self.rest().starts_with('"') { self.text(Format::Text)? } else { self.key()? };
                Term::Index(Box::new(term), Box::new(key))
            };
        }
        self.need_word("as", "as")?;
        let pattern = self.pattern()?;
        self.need("(", "(")?;
        Ok((Box::new(term), pattern))
    }

    fn choice(&mut self) -> Parsed<Term> {
        let mut branches = Vec::new();
        loop {
            let condition = self.pipe()?;
            self.need_word("then", "then")?;
            branches.push((condition, self.pipe()?));
            if self.take_word("elif") {
                continue;
            }
            let otherwise = self.take_word("else").then(|| self.pipe()).transpose()?;
            self.need_word("end", "end")?;
            return Ok(Term::If(branches, otherwise.map(Box::new)));
        }
    }

    fn pattern(&mut self) -> Parsed<Pattern> {
        self.within(|this| {
            if this.take("[") {
                let mut items = vec![this.pattern()?];
                while this.take(",") {
                    items.push(this.pattern()?);
                }
                this.need("]", "]")?;
                return Ok(Pattern::Array(items));
            }
            if this.take("{") {
                let mut members = vec![this.member_pattern()?];
                while this.take(",") {
                    members.push(this.member_pattern()?);
                }
                this.need("}", "}")?;
                return Ok(Pattern::Object(members));
            }
            Ok(Pattern::Name(this.variable()?))
        })
    }

    /// `$name`, or a key, a colon and a pattern.
    fn member_pattern(&mut self) -> Parsed<(Term, Pattern)> {
        if self.rest().starts_with('$') {
            let name = self.variable()?;
            let key = Term::Literal(name.to_string().into());
            return Ok((key, Pattern::Name(name)));
        }
        let key = self.member_key()?;
        self.need(":", ":")?;
        Ok((key, self.pattern()?))
    }

    fn member_key(&mut self) -> Parsed<Term> {
        if self.take("(") {
            let key = self.pipe()?;
            self.need(")", ")")?;
            return Ok(key);
        }
        match self.rest().chars().next() {
            Some('"') => self.text(Format::Text),
            Some('@') => self.primary(),
            Some('0'..='9') => self.number(),
            _ => self.key(),
        }
    }

    fn object(&mut self) -> Parsed<Term> {
        self.need("{", "{")?;
        let mut members = Vec::new();
        if self.take("}") {
            return Ok(Term::Object(members));
        }
        loop {
            members.push(self.member()?);
            if self.take("}") {
                return Ok(Term::Object(members));
            }
            self.need(",", ", or }")?;
        }
    }

    /// `key: value`, `key`, `$name`, `"text"` or `(key): value`.
    fn member(&mut self) -> Parsed<(Term, Term)> {
        if self.rest().starts_with('$') {
            let name = self.variable()?;
            return Ok((Term::Literal(name.to_string().into()), Term::Variable(name)));
        }
        let start = self.at;
        let key = self.member_key()?;
        if self.take(":") {
            // Values end at a comma, so that only pipes of terms stand here without brackets.
            let mut value = self.binary(0)?;
            while !self.rest().starts_with("|=") && self.take("|") {
                self.lean()?;
                value = Term::Pipe(Box::new(value), Box::new(self.binary(0)?));
            }
            return Ok((key, value));
        }
        let end = self.at;
        self.at = start;
        let again = self.member_key()?;
        self.at = end;
        Ok((key, Term::Index(Box::new(Term::Identity), Box::new(again))))
    }

    fn number(&mut self) -> Parsed<Term> {
        let bytes = self.rest().as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') {
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let after = digits(end + 1 + sign);
            end = if after > end + 1 + sign { after } else { end };
        }
        let written = &self.rest()[..end];
        let number = written.parse().map(Value::Int).or_else(|_| written.parse().map(Value::Float));
        let Ok(number) = number else { return self.fail("a number") };
        self.take(written);
        Ok(Term::Literal(number))
    }

    /// A text in double quotes, with what is interpolated.
    fn text(&mut self, format: Format) -> Parsed<Term> {
        self.at += 1;
        let mut parts = Vec::new();
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else { return self.fail("the end of the text, a quote") };
            self.at += c.len_utf8();
            match c {
                '"' => break,
                '\\' if self.rest().starts_with('(') => {
                    self.take("(");
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text).into()));
                    }
                    parts.push(Part::Hole(self.pipe()?));
                    // Not as a token: what follows the bracket is text.
                    if !self.rest().starts_with(')') {
                        return self.fail(")");
                    }
                    self.at += 1;
                }
                '\\' => text.push(self.escape()?),
                _ => text.push(c),
            }
        }
        self.blanks();
        if parts.is_empty() {
            return Ok(Term::Literal(text.into()));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Term::Text(format, parts))
    }

    fn escape(&mut self) -> Parsed<char> {
        let Some(c) = self.rest().chars().next() else { return self.fail("an escape") };
        self.at += c.len_utf8();
        let unit = |this: &mut Self| {
            let digits = this.rest().get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            this.at += if digits.is_some() { 4 } else { 0 };
            digits
        };
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{C}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let Some(mut code) = unit(self) else { return self.fail("four hexadecimal digits") };
                if (0xD800..0xDC00).contains(&code) && self.rest().starts_with("\\u") {
                    self.at += 2;
                    let low = unit(self).filter(|low| (0xDC00..0xE000).contains(low)).unwrap_or(0xDC00);
                    code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => {
                self.at -= c.len_utf8();
                return self.fail("an escape as \\n");
            }
        })
    }
}

fn join(operator: &str, left: Term, right: Term) -> Term {
    let (left, right) = (Box::new(left), Box::new(right));
    let of = |operator: &str| match operator {
        "+" => Operator::Add,
        "-" => Operator::Subtract,
        "*" => Operator::Multiply,
        "/" => Operator::Divide,
        "%" => Operator::Remainder,
        "==" => Operator::Equal,
        "!=" => Operator::NotEqual,
        "<" => Operator::Less,
        "<=" => Operator::LessOrEqual,
        ">" => Operator::Greater,
        _ => Operator::GreaterOrEqual,
    };
    match operator {
        "//" => Term::Alternative(left, right),
        "=" => Term::Assign(left, right),
        "|=" => Term::Update(left, right),
        "//=" => Term::Compute(None, left, right),
        "+=" | "-=" | "*=" | "/=" | "%=" => Term::Compute(Some(of(&operator[..1])), left, right),
        "or" => Term::Or(left, right),
        "and" => Term::And(left, right),
        _ => Term::Binary(of(operator), left, right),
    }
}
