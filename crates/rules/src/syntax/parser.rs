//! Tokens to a tree. A mistake in one SELECT item does not hide a mistake in the next.

use super::ast::{BinaryOp, Expr, ExprKind, Foreach, Item, Path, Source, Statement, Step};
use super::lexer::{Symbol, Token, tokenize};
use crate::diagnostic::{Diagnostic, Span, closest};

/// Levels of nesting in one expression. It bounds the stack of the parser and of every evaluation.
pub const MAX_EXPRESSION_DEPTH: u16 = 100;

/// Bytes of one rule's text.
pub const MAX_SQL_BYTES: usize = 64 * 1024;

/// Words that end an expression, so they name a column only in double quotes or after a dot.
const RESERVED: [&str; 24] = [
    "SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "AS", "CASE", "WHEN", "THEN", "ELSE", "END", "IN", "DIV",
    "MOD", "TRUE", "FALSE", "NULL", "FOREACH", "DO", "INCASE", "IS", "LIKE", "BETWEEN",
];

/// Clauses of other dialects of SQL, to say so instead of "unexpected".
const FOREIGN_CLAUSES: [&str; 6] = ["ORDER", "LIMIT", "JOIN", "UNION", "OFFSET", "WINDOW"];

/// The statement, as far as it could be read; it is whole when no error was added to `diagnostics`.
pub(crate) fn parse(sql: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Statement> {
    if sql.len() > MAX_SQL_BYTES {
        let message = format!("the rule's text has {} bytes; {MAX_SQL_BYTES} are allowed", sql.len());
        diagnostics.push(Diagnostic::error(Span::new(0, 0), message));
        return None;
    }
    let tokens = tokenize(sql, diagnostics);
    if !diagnostics.is_empty() {
        // Whatever the grammar says about a text with holes in it is noise.
        return None;
    }
    let mut parser = Parser { tokens, at: 0, nesting: 0, diagnostics };
    parser.statement().ok()
}

/// The mistake has been reported; the caller skips to a place where reading makes sense again.
#[derive(Debug)]
pub(super) struct Reported;

pub(super) type Parsed<T> = Result<T, Reported>;

pub(super) struct Parser<'s, 'd> {
    tokens: Vec<(Token<'s>, Span)>,
    pub(super) at: usize,
    nesting: u16,
    diagnostics: &'d mut Vec<Diagnostic>,
}

/// How tightly an operator binds; the left operand is parsed with the same power, the right with one more.
mod power {
    pub(super) const OR: u8 = 1;
    pub(super) const AND: u8 = 2;
    pub(super) const NOT: u8 = 3;
    pub(super) const COMPARISON: u8 = 4;
    pub(super) const SUM: u8 = 5;
    pub(super) const PRODUCT: u8 = 6;
}

enum Infix {
    And,
    Or,
    In,
    Like,
    Between,
    Is,
    Binary(BinaryOp),
}

/// An infix operator, whether NOT stands before it, and how tightly it binds.
struct InfixToken {
    infix: Infix,
    negated: bool,
    binds: u8,
}

impl<'s> Parser<'s, '_> {
    fn statement(&mut self) -> Parsed<Statement> {
        let (foreach, items) = self.outputs()?;
        if !self.is_keyword("FROM") {
            let span = self.span();
            let message = format!("expected FROM, found {}", self.describe());
            self.report(
                Diagnostic::error(span, message)
                    .hint("a rule says which topics it reads: SELECT ... FROM \"topic/filter\""),
            );
            return Err(Reported);
        }
        self.advance();
        let sources = self.sources()?;
        let condition = self.clause("WHERE")?;
        let mut statement =
            Statement { foreach, items, sources, condition, dedup: None, sample: None, group: None };
        while self.further_clause(&mut statement)? {}
        self.take(Symbol::Semicolon);
        if self.token() != &Token::End {
            return self.fail_at_end(statement.condition.is_some());
        }
        Ok(statement)
    }

    /// `SELECT items`, or `FOREACH lists DO items INCASE condition`.
    fn outputs(&mut self) -> Parsed<(Option<Foreach>, Vec<Item>)> {
        let span = self.span();
        if !self.is_keyword("FOREACH") {
            self.expect_keyword("SELECT")?;
            return Ok((None, self.items()));
        }
        self.advance();
        let lists = self.items();
        let items = if self.is_keyword("DO") {
            self.advance();
            self.items()
        } else {
            Vec::new()
        };
        let condition = self.clause("INCASE")?;
        if self.is_keyword("WHERE") {
            let error = Diagnostic::error(self.span(), "WHERE comes after FROM");
            return self.fail(error.hint("a condition on the elements is INCASE, before FROM"));
        }
        Ok((Some(Foreach { items: lists, condition, span }), items))
    }

    /// A keyword with the condition that follows it, where it stands next.
    pub(super) fn clause(&mut self, keyword: &str) -> Parsed<Option<Expr>> {
        if !self.is_keyword(keyword) {
            return Ok(None);
        }
        self.advance();
        self.expression(0).map(Some)
    }

    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            match self.item() {
                Ok(item) => items.push(item),
                Err(Reported) => self.skip_to_next_item(),
            }
            if self.take(Symbol::Comma) {
                continue;
            }
            if self.ends_items() {
                return items;
            }
            self.report_expected("`,`, AS or FROM");
            self.skip_to_next_item();
            if !self.take(Symbol::Comma) {
                return items;
            }
        }
    }

    fn ends_items(&self) -> bool {
        ["FROM", "WHERE", "DO", "INCASE"].iter().any(|keyword| self.is_keyword(keyword))
            || self.token() == &Token::End
    }

    fn item(&mut self) -> Parsed<Item> {
        if self.take(Symbol::Star) {
            return Ok(Item::Star(self.last_span()));
        }
        let expr = self.expression(0)?;
        let explicit = self.is_keyword("AS");
        if explicit {
            self.advance();
        }
        let alias = match self.token() {
            Token::Quoted(_) => Some(self.alias()?),
            Token::Word(word) if !is_reserved(word) => Some(self.alias()?),
            _ if explicit => return self.fail_expected("a name after AS"),
            _ => None,
        };
        Ok(Item::Expr { expr, alias })
    }

    fn alias(&mut self) -> Parsed<Path> {
        let path = self.path()?;
        for step in &path.steps {
            if let Step::Slice(..) | Step::Computed(_) = step {
                let error =
                    Diagnostic::error(path.span, "an output can't be named by a range or a computed index");
                return self.fail(error.hint("use a number, [0] for the front or [-0] for the end"));
            }
        }
        Ok(path)
    }

    fn sources(&mut self) -> Parsed<Vec<Source>> {
        let mut sources = Vec::new();
        loop {
            let span = self.span();
            let filter = match self.token() {
                Token::Quoted(filter) | Token::Text(filter) => filter.clone(),
                Token::Word(word) if !is_reserved(word) => (*word).to_owned(),
                _ => return self.fail_expected("a topic filter in double quotes"),
            };
            self.advance();
            sources.push(Source { filter, span });
            if !self.take(Symbol::Comma) {
                return Ok(sources);
            }
        }
    }

    /// An expression whose operators bind at least as tightly as `least`.
    pub(super) fn expression(&mut self, least: u8) -> Parsed<Expr> {
        self.nesting += 1;
        let result =
            if self.nesting > MAX_EXPRESSION_DEPTH { self.fail_too_deep() } else { self.infix_chain(least) };
        self.nesting -= 1;
        result
    }

    fn infix_chain(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.prefix()?;
        while let Some(InfixToken { infix, negated, binds }) = self.infix() {
            if binds < least {
                break;
            }
            self.at += 1 + usize::from(negated);
            left = match infix {
                Infix::And => {
                    let right = self.expression(binds + 1)?;
                    all(left, right)
                }
                Infix::Or => {
                    let right = self.expression(binds + 1)?;
                    any(left, right)
                }
                Infix::In => self.in_list(left, negated)?,
                Infix::Like => self.like(left, negated)?,
                Infix::Between => self.between(left, negated)?,
                Infix::Is => self.is_null(left)?,
                Infix::Binary(op) => {
                    let right = self.expression(binds + 1)?;
                    let (span, depth) = (left.span.to(right.span), left.depth.max(right.depth) + 1);
                    Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span, depth }
                }
            };
            if left.depth > MAX_EXPRESSION_DEPTH {
                return self.fail_too_deep();
            }
        }
        Ok(left)
    }

    fn infix(&self) -> Option<InfixToken> {
        use BinaryOp as Op;
        let token = |infix, binds| Some(InfixToken { infix, negated: false, binds });
        let (op, binds) = match self.token() {
            Token::Word(_) if self.is_keyword("AND") => return token(Infix::And, power::AND),
            Token::Word(_) if self.is_keyword("OR") => return token(Infix::Or, power::OR),
            Token::Word(_) if self.is_keyword("IS") => return token(Infix::Is, power::COMPARISON),
            Token::Word(_) if self.is_keyword("DIV") => (Op::IntegerDivide, power::PRODUCT),
            Token::Word(_) if self.is_keyword("MOD") => (Op::Remainder, power::PRODUCT),
            Token::Word(_) => {
                let negated = self.is_keyword("NOT");
                let at = self.at + usize::from(negated);
                let found = [("IN", Infix::In), ("LIKE", Infix::Like), ("BETWEEN", Infix::Between)]
                    .into_iter()
                    .find(|(keyword, _)| self.is_keyword_at(at, keyword));
                return found.map(|(_, infix)| InfixToken { infix, negated, binds: power::COMPARISON });
            }
            Token::Symbol(symbol) => match symbol {
                Symbol::Star => (Op::Multiply, power::PRODUCT),
                Symbol::Slash => (Op::Divide, power::PRODUCT),
                Symbol::Plus => (Op::Add, power::SUM),
                Symbol::Minus => (Op::Subtract, power::SUM),
                Symbol::Join => (Op::Join, power::SUM),
                Symbol::Equal => (Op::Equal, power::COMPARISON),
                Symbol::NotEqual => (Op::NotEqual, power::COMPARISON),
                Symbol::Less => (Op::Less, power::COMPARISON),
                Symbol::LessOrEqual => (Op::LessOrEqual, power::COMPARISON),
                Symbol::Greater => (Op::Greater, power::COMPARISON),
                Symbol::GreaterOrEqual => (Op::GreaterOrEqual, power::COMPARISON),
                Symbol::TopicMatch => (Op::TopicMatch, power::COMPARISON),
                _ => return None,
            },
            _ => return None,
        };
        token(Infix::Binary(op), binds)
    }

    fn prefix(&mut self) -> Parsed<Expr> {
        let span = self.span();
        match self.token().clone() {
            Token::Integer(digits) => {
                self.advance();
                Ok(leaf(integer(digits, false), span))
            }
            Token::Float(value) => {
                self.advance();
                Ok(leaf(ExprKind::Float(value), span))
            }
            Token::Text(text) => {
                self.advance();
                Ok(leaf(ExprKind::Str(text), span))
            }
            Token::Quoted(_) => self.path_expr(),
            Token::Word(word) => self.word(word, span),
            Token::Symbol(Symbol::Minus) => self.negated(span),
            Token::Symbol(Symbol::Plus) => {
                self.advance();
                self.expression(power::PRODUCT + 1)
            }
            Token::Symbol(Symbol::OpenParen) => {
                self.advance();
                let mut inner = self.expression(0)?;
                self.expect(Symbol::CloseParen)?;
                inner.span = span.to(self.last_span());
                // A parenthesis closes a chain: `(a AND b) AND c` may still be flattened, the meaning is the same.
                Ok(inner)
            }
            Token::Symbol(Symbol::OpenBracket) => self.array(span),
            Token::Symbol(Symbol::OpenBrace) => self.object(span),
            _ => self.fail_expected("a value"),
        }
    }

    fn word(&mut self, word: &'s str, span: Span) -> Parsed<Expr> {
        let keyword = |name: &str| word.eq_ignore_ascii_case(name);
        let is_call =
            self.tokens.get(self.at + 1).is_some_and(|(t, _)| t == &Token::Symbol(Symbol::OpenParen));
        if is_call && (!is_reserved(word) || keyword("MOD") || keyword("DIV")) {
            self.advance();
            return self.call(word, span);
        }
        let constant = if keyword("TRUE") {
            ExprKind::Bool(true)
        } else if keyword("FALSE") {
            ExprKind::Bool(false)
        } else if keyword("NULL") {
            ExprKind::Null
        } else if keyword("NOT") {
            self.advance();
            let operand = self.expression(power::NOT)?;
            let (span, depth) = (span.to(operand.span), operand.depth + 1);
            return Ok(Expr { kind: ExprKind::Not(Box::new(operand)), span, depth });
        } else if keyword("CASE") {
            self.advance();
            return self.case(span);
        } else if is_reserved(word) {
            return self.fail_expected("a value");
        } else {
            return self.path_expr();
        };
        self.advance();
        Ok(leaf(constant, span))
    }

    /// A minus directly before a number belongs to it, so that the smallest integer can be written.
    fn negated(&mut self, minus: Span) -> Parsed<Expr> {
        self.advance();
        let span = minus.to(self.span());
        match *self.token() {
            Token::Integer(digits) => {
                self.advance();
                Ok(leaf(integer(digits, true), span))
            }
            Token::Float(value) => {
                self.advance();
                Ok(leaf(ExprKind::Float(-value), span))
            }
            _ => {
                let operand = self.expression(power::PRODUCT + 1)?;
                let (span, depth) = (minus.to(operand.span), operand.depth + 1);
                Ok(Expr { kind: ExprKind::Negate(Box::new(operand)), span, depth })
            }
        }
    }

    fn path_expr(&mut self) -> Parsed<Expr> {
        let path = self.path()?;
        if self.token() == &Token::Symbol(Symbol::OpenParen) {
            let error = Diagnostic::error(path.span, "functions of modules can't be called");
            return self.fail(error.hint("write the name of a built-in function, without dots"));
        }
        let span = path.span;
        let inner = path.steps.iter().map(|s| if let Step::Computed(e) = s { e.depth } else { 0 }).max();
        Ok(Expr { depth: inner.unwrap_or(0) + 1, kind: ExprKind::Path(path), span })
    }

    fn path(&mut self) -> Parsed<Path> {
        let start = self.span();
        let (root, quoted) = match self.token() {
            Token::Word(word) if !is_reserved(word) => ((*word).to_owned(), false),
            Token::Quoted(name) => (name.clone(), true),
            _ => return self.fail_expected("a name"),
        };
        self.advance();
        let mut steps = Vec::new();
        loop {
            if self.take(Symbol::Dot) {
                let key = match self.token() {
                    Token::Word(word) => (*word).to_owned(),
                    Token::Quoted(name) | Token::Text(name) => name.clone(),
                    Token::Symbol(Symbol::OpenBracket) => {
                        let error = Diagnostic::error(self.span(), "an index does not follow a dot");
                        return self.fail(error.hint("write a[1][2] without dots between the brackets"));
                    }
                    Token::Integer(digits) => (*digits).to_owned(),
                    Token::Float(_) => {
                        let error = Diagnostic::error(self.span(), "a decimal is not the name of a field");
                        return self
                            .fail(error.hint("write a[1] for an element of an array, a.\"1\" for a field"));
                    }
                    _ => return self.fail_expected("a field's name"),
                };
                self.advance();
                steps.push(Step::Key(key));
            } else if self.token() == &Token::Symbol(Symbol::OpenBracket) {
                steps.push(self.index()?);
            } else {
                let span = start.to(self.last_span());
                return Ok(Path { root, quoted, steps, span });
            }
            let more = matches!(self.token(), Token::Symbol(Symbol::Dot | Symbol::OpenBracket));
            if more && matches!(steps.last(), Some(Step::Slice(..))) {
                return self.fail(Diagnostic::error(self.span(), "nothing can follow a range"));
            }
        }
    }

    /// `[1]`, `[-1]`, `[2..4]` or `[some.expression]`.
    fn index(&mut self) -> Parsed<Step> {
        self.expect(Symbol::OpenBracket)?;
        let before = self.at;
        if let Some(first) = self.signed_integer() {
            let negative_zero = self.at - before == 2 && first == 0;
            if self.take(Symbol::CloseBracket) {
                return Ok(if negative_zero { Step::Append } else { Step::Index(first) });
            }
            if self.take(Symbol::DotDot) {
                let Some(last) = self.signed_integer() else {
                    return self.fail_expected("the end of the range");
                };
                self.expect(Symbol::CloseBracket)?;
                return Ok(Step::Slice(first, last));
            }
            self.at = before;
        }
        let index = self.expression(0)?;
        self.expect(Symbol::CloseBracket)?;
        Ok(Step::Computed(Box::new(index)))
    }

    fn signed_integer(&mut self) -> Option<i64> {
        let negative = self.token() == &Token::Symbol(Symbol::Minus);
        let digits = match self.tokens.get(self.at + usize::from(negative)) {
            Some((Token::Integer(digits), _)) => *digits,
            _ => return None,
        };
        let ExprKind::Int(value) = integer(digits, negative) else { return None };
        self.at += 1 + usize::from(negative);
        Some(value)
    }

    fn call(&mut self, name: &str, name_span: Span) -> Parsed<Expr> {
        self.expect(Symbol::OpenParen)?;
        if name.eq_ignore_ascii_case("count") && self.take(Symbol::Star) {
            self.expect(Symbol::CloseParen)?;
            let span = name_span.to(self.last_span());
            return Ok(leaf(ExprKind::Call { name: name.to_owned(), name_span, args: Vec::new() }, span));
        }
        let args = self.list(Symbol::CloseParen, "`,` or `)`")?;
        let span = name_span.to(self.last_span());
        let depth = deepest(&args) + 1;
        Ok(Expr { kind: ExprKind::Call { name: name.to_owned(), name_span, args }, span, depth })
    }

    fn array(&mut self, start: Span) -> Parsed<Expr> {
        self.expect(Symbol::OpenBracket)?;
        let elements = if self.take(Symbol::CloseBracket) {
            Vec::new()
        } else {
            let first = self.expression(0)?;
            if self.take(Symbol::DotDot) {
                let last = self.expression(0)?;
                self.expect(Symbol::CloseBracket)?;
                let (span, depth) = (start.to(self.last_span()), first.depth.max(last.depth) + 1);
                return Ok(Expr { kind: ExprKind::Range(Box::new(first), Box::new(last)), span, depth });
            }
            let mut elements = vec![first];
            if self.take(Symbol::Comma) {
                elements.extend(self.list(Symbol::CloseBracket, "`,` or `]`")?);
            } else {
                self.expect(Symbol::CloseBracket)?;
            }
            elements
        };
        let (span, depth) = (start.to(self.last_span()), deepest(&elements) + 1);
        Ok(Expr { kind: ExprKind::Array(elements), span, depth })
    }

    /// `{name: value, 'other name': value}`
    fn object(&mut self, start: Span) -> Parsed<Expr> {
        self.expect(Symbol::OpenBrace)?;
        let mut members = Vec::new();
        if !self.take(Symbol::CloseBrace) {
            loop {
                let name = match self.token() {
                    Token::Word(name) => (*name).to_owned(),
                    Token::Quoted(name) | Token::Text(name) => name.clone(),
                    _ => return self.fail_expected("a member's name"),
                };
                self.advance();
                self.expect(Symbol::Colon)?;
                members.push((name, self.expression(0)?));
                if self.take(Symbol::CloseBrace) {
                    break;
                }
                if !self.take(Symbol::Comma) {
                    return self.fail_expected("`,` or `}`");
                }
            }
        }
        let depth = members.iter().map(|(_, value)| value.depth).max().unwrap_or(0) + 1;
        Ok(Expr { kind: ExprKind::Object(members), span: start.to(self.last_span()), depth })
    }

    fn like(&mut self, value: Expr, negated: bool) -> Parsed<Expr> {
        let pattern = self.expression(power::COMPARISON + 1)?;
        let (span, depth) = (value.span.to(pattern.span), value.depth.max(pattern.depth) + 1);
        let kind = ExprKind::Like { value: Box::new(value), pattern: Box::new(pattern), negated };
        Ok(Expr { kind, span, depth })
    }

    fn between(&mut self, value: Expr, negated: bool) -> Parsed<Expr> {
        let low = self.expression(power::COMPARISON + 1)?;
        self.expect_keyword("AND")?;
        let high = self.expression(power::COMPARISON + 1)?;
        let (span, depth) = (value.span.to(high.span), value.depth.max(low.depth).max(high.depth) + 1);
        let [value, low, high] = [value, low, high].map(Box::new);
        Ok(Expr { kind: ExprKind::Between { value, low, high, negated }, span, depth })
    }

    /// After IS: `NULL` or `NOT NULL`.
    fn is_null(&mut self, value: Expr) -> Parsed<Expr> {
        let negated = self.is_keyword("NOT");
        self.at += usize::from(negated);
        self.expect_keyword("NULL")?;
        let (span, depth) = (value.span.to(self.last_span()), value.depth + 1);
        Ok(Expr { kind: ExprKind::IsNull { value: Box::new(value), negated }, span, depth })
    }

    fn in_list(&mut self, needle: Expr, negated: bool) -> Parsed<Expr> {
        self.expect(Symbol::OpenParen)?;
        let haystack = self.list(Symbol::CloseParen, "`,` or `)`")?;
        if haystack.is_empty() {
            return self.fail(Diagnostic::error(self.last_span(), "IN needs at least one value"));
        }
        let span = needle.span.to(self.last_span());
        let depth = needle.depth.max(deepest(&haystack)) + 1;
        Ok(Expr { kind: ExprKind::In { needle: Box::new(needle), haystack, negated }, span, depth })
    }

    /// Expressions up to and including `close`, which may come at once.
    fn list(&mut self, close: Symbol, expected: &str) -> Parsed<Vec<Expr>> {
        let mut list = Vec::new();
        if self.take(close) {
            return Ok(list);
        }
        loop {
            list.push(self.expression(0)?);
            if self.take(close) {
                return Ok(list);
            }
            if !self.take(Symbol::Comma) {
                return self.fail_expected(expected);
            }
        }
    }

    fn case(&mut self, start: Span) -> Parsed<Expr> {
        let subject = if self.is_keyword("WHEN") { None } else { Some(Box::new(self.expression(0)?)) };
        let mut branches = Vec::new();
        while self.is_keyword("WHEN") {
            self.advance();
            let when = self.expression(0)?;
            self.expect_keyword("THEN")?;
            branches.push((when, self.expression(0)?));
        }
        if branches.is_empty() {
            return self.fail_expected("WHEN");
        }
        let otherwise = if self.is_keyword("ELSE") {
            self.advance();
            Some(Box::new(self.expression(0)?))
        } else {
            None
        };
        self.expect_keyword("END")?;
        let inner = branches.iter().flat_map(|(when, then)| [when.depth, then.depth]);
        let inner = inner.chain(subject.iter().chain(&otherwise).map(|e| e.depth)).max();
        let (span, depth) = (start.to(self.last_span()), inner.unwrap_or(0) + 1);
        Ok(Expr { kind: ExprKind::Case { subject, branches, otherwise }, span, depth })
    }

    pub(super) fn token(&self) -> &Token<'s> {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    pub(super) fn span(&self) -> Span {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    /// Of the token before this one.
    pub(super) fn last_span(&self) -> Span {
        self.tokens[self.at.saturating_sub(1).min(self.tokens.len() - 1)].1
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    pub(super) fn take(&mut self, symbol: Symbol) -> bool {
        let found = self.token() == &Token::Symbol(symbol);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, symbol: Symbol) -> Parsed<()> {
        if self.take(symbol) { Ok(()) } else { self.fail_expected(&format!("`{}`", symbol.text())) }
    }

    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        self.is_keyword_at(self.at, keyword)
    }

    pub(super) fn is_keyword_at(&self, at: usize, keyword: &str) -> bool {
        matches!(self.tokens.get(at), Some((Token::Word(word), _)) if word.eq_ignore_ascii_case(keyword))
    }

    /// Whether a number with a unit begins at that token.
    pub(super) fn is_duration_at(&self, at: usize) -> bool {
        let tokens = self.tokens.get(at).zip(self.tokens.get(at + 1));
        matches!(tokens, Some(((Token::Integer(_), _), (Token::Word(_), _))))
    }

    pub(super) fn expect_keyword(&mut self, keyword: &str) -> Parsed<()> {
        if self.is_keyword(keyword) {
            self.advance();
            return Ok(());
        }
        let span = self.span();
        let mistyped = match self.token() {
            Token::Word(word) => closest(word, [keyword]).map(|k| format!("did you mean {k}?")),
            _ => None,
        };
        let message = format!("expected {keyword}, found {}", self.describe());
        self.fail(Diagnostic::error(span, message).maybe_hint(mistyped))
    }

    fn skip_to_next_item(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.token() {
                Token::End => return,
                Token::Word(_) if self.is_keyword("FROM") => return,
                Token::Word(_) if open == 0 && self.ends_items() => return,
                Token::Symbol(Symbol::Comma) if open == 0 => return,
                Token::Symbol(Symbol::OpenParen | Symbol::OpenBracket | Symbol::OpenBrace) => open += 1,
                Token::Symbol(Symbol::CloseParen | Symbol::CloseBracket | Symbol::CloseBrace) => {
                    open = open.saturating_sub(1);
                }
                _ => {}
            }
            self.advance();
        }
    }

    fn describe(&self) -> String {
        match self.token() {
            Token::Word(word) => format!("`{word}`"),
            Token::Quoted(name) => format!("the name \"{}\"", short(name)),
            Token::Text(text) => format!("the text '{}'", short(text)),
            Token::Integer(digits) => format!("the number {}", short(digits)),
            Token::Float(value) => format!("the number {value}"),
            Token::Symbol(symbol) => format!("`{}`", symbol.text()),
            Token::End => "the end of the text".to_owned(),
        }
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn fail<T>(&mut self, diagnostic: Diagnostic) -> Parsed<T> {
        self.report(diagnostic);
        Err(Reported)
    }

    fn report_expected(&mut self, what: &str) {
        let span = self.span();
        let hint = match self.token() {
            Token::Word(word) if is_reserved(word) && what.starts_with("a ") => Some(format!(
                "{} is a keyword; a column of that name is written \"{word}\"",
                word.to_uppercase()
            )),
            Token::Word(word) => foreign(word).or_else(|| {
                let keyword = closest(word, ["FROM", "WHERE", "AND", "AS"])?;
                (!keyword.eq_ignore_ascii_case(word)).then(|| format!("did you mean {keyword}?"))
            }),
            _ => None,
        };
        let message = format!("expected {what}, found {}", self.describe());
        self.report(Diagnostic::error(span, message).maybe_hint(hint));
    }

    pub(super) fn fail_expected<T>(&mut self, what: &str) -> Parsed<T> {
        self.report_expected(what);
        Err(Reported)
    }

    fn fail_at_end<T>(&mut self, after_condition: bool) -> Parsed<T> {
        let expected = if after_condition {
            "AND, OR, GROUP BY or the end of the rule"
        } else {
            "`,`, WHERE, GROUP BY or the end of the rule"
        };
        self.fail_expected(expected)
    }

    fn fail_too_deep<T>(&mut self) -> Parsed<T> {
        let span = self.span();
        let message = format!("this expression is nested more than {MAX_EXPRESSION_DEPTH} levels deep");
        self.fail(Diagnostic::error(span, message))
    }
}

fn foreign(word: &str) -> Option<String> {
    FOREIGN_CLAUSES
        .iter()
        .any(|clause| word.eq_ignore_ascii_case(clause))
        .then(|| format!("rules have no {} clause: each message is handled by itself", word.to_uppercase()))
}

fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|k| word.eq_ignore_ascii_case(k))
}

fn leaf(kind: ExprKind, span: Span) -> Expr {
    Expr { kind, span, depth: 1 }
}

fn deepest(list: &[Expr]) -> u16 {
    list.iter().map(|e| e.depth).max().unwrap_or(0)
}

/// `a AND b`, appended to `a` when that is an AND already, so that a long chain is flat.
fn all(left: Expr, right: Expr) -> Expr {
    let span = left.span.to(right.span);
    let depth = left.depth.max(right.depth + 1);
    match left.kind {
        ExprKind::All(mut list) => {
            list.push(right);
            Expr { kind: ExprKind::All(list), span, depth }
        }
        _ => Expr { depth: depth.max(left.depth + 1), kind: ExprKind::All(vec![left, right]), span },
    }
}

/// The same for OR.
fn any(left: Expr, right: Expr) -> Expr {
    let span = left.span.to(right.span);
    let depth = left.depth.max(right.depth + 1);
    match left.kind {
        ExprKind::Any(mut list) => {
            list.push(right);
            Expr { kind: ExprKind::Any(list), span, depth }
        }
        _ => Expr { depth: depth.max(left.depth + 1), kind: ExprKind::Any(vec![left, right]), span },
    }
}

fn integer(digits: &str, negative: bool) -> ExprKind {
    let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
    if let Ok(value) = signed.parse() {
        return ExprKind::Int(value);
    }
    let significant = digits.trim_start_matches('0');
    ExprKind::BigInt(if negative { format!("-{significant}") } else { significant.to_owned() })
}

fn short(text: &str) -> String {
    const SHOWN_CHARS: usize = 24;
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
