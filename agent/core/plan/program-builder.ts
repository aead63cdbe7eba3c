/** Writes linear programmes down: linear expressions, and a builder that collects variables and rows. */
import type { LinearProgram, Row, Term, Variable } from './linear-program.js';

/** `constant + sum(coefficient * variable)`, the coefficients by variable. */
export interface Expression {
  constant: number;
  terms: ReadonlyMap<number, number>;
}

/** An expression without variables. */
export function constant(value: number): Expression {
  return { constant: value, terms: new Map() };
}

/** Sum of expressions, each times its factor. */
export function combine(...parts: readonly (readonly [factor: number, expression: Expression])[]): Expression {
  let total = 0;
  const terms = new Map<number, number>();
  for (const [factor, expression] of parts) {
    total += factor * expression.constant;
    for (const [variable, coefficient] of expression.terms) {
      terms.set(variable, (terms.get(variable) ?? 0) + factor * coefficient);
    }
  }
  return { constant: total, terms };
}

/** The value of an expression at a point. */
export function valueAt(expression: Expression, point: ArrayLike<number>): number {
  let total = expression.constant;
  for (const [variable, coefficient] of expression.terms) total += coefficient * point[variable]!;
  return total;
}

/** Builds a linear programme from expressions. */
export class ProgramBuilder {
  readonly #variables: Variable[] = [];
  readonly #rows: Row[] = [];
  readonly #auxiliaries: { variable: number; bounds: readonly Expression[] }[] = [];

  /** A variable that is 0 or 1, or fixed at 1. */
  binary(name: string, fixed = false): Expression {
    return this.#variable({ name, lower: fixed ? 1 : 0, upper: 1, integer: true });
  }

  /**
   * A continuous variable, at least 0 and at least each of the bounds. It equals the largest of them wherever the programme has
   * reason to keep it small.
   */
  maximum(name: string, bounds: readonly Expression[], upper: number): Expression {
    const result = this.#variable({ name, lower: 0, upper, integer: false });
    this.#auxiliaries.push({ variable: this.#variables.length - 1, bounds });
    for (const bound of bounds) this.atMost(name, combine([1, bound], [-1, result]), 0);
    return result;
  }

  /** Adds the row `expression <= bound`, unless it holds for every point within the variables' bounds. */
  atMost(name: string, expression: Expression, bound: number): void {
    if (this.largest(expression) > bound) this.#row(name, expression, '<=', bound);
  }

  /** Adds the row `expression = bound`. */
  equal(name: string, expression: Expression, bound: number): void {
    this.#row(name, expression, '=', bound);
  }

  /** The programme that minimises `objective`. The start is given by its binaries; the other variables follow from them. */
  minimise(objective: Expression, startAt?: ReadonlySet<Expression>): LinearProgram {
    const program = { variables: this.#variables, objective: termsOf(objective), rows: this.#rows };
    return startAt ? { ...program, start: this.#point(startAt) } : program;
  }

  /** The largest value of an expression within the variables' bounds. */
  largest({ constant: start, terms }: Expression): number {
    let largest = start;
    for (const [variable, coefficient] of terms) {
      const { lower, upper } = this.#variables[variable]!;
      if (coefficient !== 0) largest += coefficient * (coefficient > 0 ? upper : lower);
    }
    return largest;
  }

  #point(ones: ReadonlySet<Expression>): Float64Array {
    const point = new Float64Array(this.#variables.length);
    for (const one of ones) for (const variable of one.terms.keys()) point[variable] = 1;
    for (const { variable, bounds } of this.#auxiliaries) {
      point[variable] = bounds.reduce((largest, bound) => Math.max(largest, valueAt(bound, point)), 0);
    }
    return point;
  }

  #variable(variable: Variable): Expression {
    this.#variables.push(variable);
    return { constant: 0, terms: new Map([[this.#variables.length - 1, 1]]) };
  }

  #row(name: string, expression: Expression, relation: Row['relation'], bound: number): void {
    this.#rows.push({ name, terms: termsOf(expression), relation, bound: bound - expression.constant });
  }
}

function termsOf(expression: Expression): Term[] {
  const terms: Term[] = [];
  for (const [variable, coefficient] of expression.terms) if (coefficient !== 0) terms.push({ variable, coefficient });
  return terms;
}
