import { malformed } from './malformed.js';
import type { Node } from './model.js';

/** Attribute readers: the value, or the fallback where the attribute is absent; `model/malformed` where it is of another type. */
export function intAttribute(node: Node, name: string, fallback: number): number {
  return typedValue(node, name, 'int') ?? fallback;
}

/** As `intAttribute`, of a float. */
export function floatAttribute(node: Node, name: string, fallback: number): number {
  return typedValue(node, name, 'float') ?? fallback;
}

/** As `intAttribute`, of a string. */
export function stringAttribute(node: Node, name: string, fallback: string): string {
  return typedValue(node, name, 'string') ?? fallback;
}

/** A list of integers, or null where the attribute is absent; `model/malformed` where it is of another type. */
export function intsAttribute(node: Node, name: string): readonly number[] | null {
  return typedValue(node, name, 'ints') ?? null;
}

/** A list of floats, or null where the attribute is absent; `model/malformed` where it is of another type. */
export function floatsAttribute(node: Node, name: string): readonly number[] | null {
  return typedValue(node, name, 'floats') ?? null;
}

interface Values {
  int: number;
  float: number;
  string: string;
  ints: readonly number[];
  floats: readonly number[];
}

function typedValue<Kind extends keyof Values>(node: Node, name: string, kind: Kind): Values[Kind] | undefined {
  const attribute = node.attributes.get(name);
  if (attribute === undefined) return undefined;
  if (attribute.kind !== kind) {
    throw malformed(node.name, `attribute ${name} of ${node.op} ${node.name} is ${attribute.kind}, not ${kind}`);
  }
  return attribute.value as Values[Kind];
}
