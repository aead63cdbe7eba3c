/** Facts about one TypeScript file, read off its syntax tree: comments and strings never count as code. */
import { posix } from 'node:path';
import ts from 'typescript';

/** How a file refers to another: `url` is `new URL('./x.js', import.meta.url)`, as entry points of workers are named. */
export interface Import {
  /** A package (`sharp`, `node:fs`) or a path of the repository (`agent/ports.ts`); null where it is computed. */
  readonly target: string | null;
  readonly isPackage: boolean;
  readonly isTypeOnly: boolean;
  readonly line: number;
}

/** A name of the outside that code refers to: `Date`, or a member such as `process.env`, `Math.random`. */
export interface GlobalUse {
  readonly name: string;
  readonly line: number;
}

export interface Source {
  readonly path: string;
  readonly lines: number;
  readonly imports: readonly Import[];
  /** Uses of the watched globals; a member is named with its object, a use of the whole object by its bare name. */
  readonly globals: readonly GlobalUse[];
  /** Exported declarations that have no doc comment directly above them. */
  readonly undocumented: readonly string[];
}

/** Names outside of ECMAScript's pure part; whoever refers to one can see the time, chance or the machine. */
const watched = new Set([
  ...[
    'Date',
    'Math',
    'process',
    'console',
    'fetch',
    'performance',
    'crypto',
    'globalThis',
    'global',
    'require',
    'eval',
  ],
  ...['setTimeout', 'setInterval', 'setImmediate', 'clearTimeout', 'clearInterval', 'queueMicrotask', 'Function'],
]);

/** Reads a file. `path` is relative to the repository, with forward slashes. */
export function scan(path: string, text: string): Source {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.ES2022, true);
  const imports: Import[] = [];
  const globals: GlobalUse[] = [];
  const lineOf = (node: ts.Node) => file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1;
  const addImport = (node: ts.Node, specifier: ts.Node | undefined, isTypeOnly: boolean) => {
    const name = specifier !== undefined && ts.isStringLiteralLike(specifier) ? specifier.text : null;
    const isPackage = name !== null && !name.startsWith('.') && !name.startsWith('/');
    imports.push({
      target: name === null || isPackage ? name : resolve(path, name),
      isPackage,
      isTypeOnly,
      line: lineOf(node),
    });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) addImport(node, node.moduleSpecifier, isTypeOnlyImport(node));
    else if (ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined) {
      addImport(node, node.moduleSpecifier, isTypeOnlyExport(node));
    } else if (ts.isImportTypeNode(node)) {
      addImport(node, ts.isLiteralTypeNode(node.argument) ? node.argument.literal : undefined, true);
    } else if (ts.isExternalModuleReference(node)) addImport(node, node.expression, false);
    else if (isDynamicImport(node)) addImport(node, node.arguments[0], false);
    else if (isModuleUrl(node)) addImport(node, node.arguments![0], false);
    else if (ts.isIdentifier(node) && watched.has(node.text) && isReference(node)) {
      globals.push({ name: globalName(node), line: lineOf(node) });
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  const lines = text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
  return { path, lines, imports, globals, undocumented: undocumentedExports(file) };
}

/** Imports end in `.js` and name the `.ts` file that it is compiled from. */
function resolve(from: string, specifier: string): string {
  return posix.join(posix.dirname(from), specifier).replace(/\.js$/, '.ts');
}

function isTypeOnlyImport(node: ts.ImportDeclaration): boolean {
  const clause = node.importClause;
  if (clause === undefined) return false;
  if (clause.isTypeOnly) return true;
  const bindings = clause.namedBindings;
  return (
    clause.name === undefined &&
    bindings !== undefined &&
    ts.isNamedImports(bindings) &&
    bindings.elements.length > 0 &&
    bindings.elements.every((element) => element.isTypeOnly)
  );
}

function isTypeOnlyExport(node: ts.ExportDeclaration): boolean {
  if (node.isTypeOnly) return true;
  const clause = node.exportClause;
  return clause !== undefined && ts.isNamedExports(clause) && clause.elements.every((element) => element.isTypeOnly);
}

function isDynamicImport(node: ts.Node): node is ts.CallExpression {
  return ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword;
}

function isModuleUrl(node: ts.Node): node is ts.NewExpression {
  if (!ts.isNewExpression(node) || !ts.isIdentifier(node.expression) || node.expression.text !== 'URL') return false;
  const [first, second] = node.arguments ?? [];
  return (
    first !== undefined &&
    ts.isStringLiteralLike(first) &&
    first.text.endsWith('.js') &&
    second?.getText() === 'import.meta.url'
  );
}

/** Whether an identifier refers to a variable, rather than naming a member, a key or a property of a type. */
function isReference(node: ts.Identifier): boolean {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent) || ts.isQualifiedName(parent)) {
    return node !== (ts.isQualifiedName(parent) ? parent.right : parent.name);
  }
  if (ts.isBindingElement(parent)) return parent.initializer === node;
  const isKey =
    (ts.isPropertyAssignment(parent) ||
      ts.isPropertySignature(parent) ||
      ts.isPropertyDeclaration(parent) ||
      ts.isMethodDeclaration(parent) ||
      ts.isMethodSignature(parent) ||
      ts.isGetAccessorDeclaration(parent) ||
      ts.isEnumMember(parent)) &&
    parent.name === node;
  return !isKey;
}

function globalName(node: ts.Identifier): string {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent)) return `${node.text}.${parent.name.text}`;
  if (ts.isElementAccessExpression(parent) && ts.isStringLiteralLike(parent.argumentExpression)) {
    return `${node.text}.${parent.argumentExpression.text}`;
  }
  return node.text;
}

function undocumentedExports(file: ts.SourceFile): string[] {
  const documented = new Set<string>();
  const bare: string[] = [];
  for (const statement of file.statements) {
    if (!ts.canHaveModifiers(statement)) continue;
    if (!ts.getModifiers(statement)?.some((modifier) => modifier.kind === ts.SyntaxKind.ExportKeyword)) continue;
    for (const name of declaredNames(statement))
      hasDocComment(file, statement) ? documented.add(name) : bare.push(name);
  }
  // A schema and the static type derived from it share a name and a comment.
  return bare.filter((name) => !documented.has(name));
}

function declaredNames(statement: ts.Statement): string[] {
  if (ts.isVariableStatement(statement))
    return statement.declarationList.declarations.map(({ name }) => name.getText());
  const { name } = statement as ts.DeclarationStatement;
  return [name?.getText() ?? 'default'];
}

/** A `/** ... *\/` that ends on the line above the declaration. */
function hasDocComment(file: ts.SourceFile, statement: ts.Statement): boolean {
  const text = file.getFullText();
  const comment = ts.getLeadingCommentRanges(text, statement.getFullStart())?.at(-1);
  if (comment === undefined || !text.startsWith('/**', comment.pos)) return false;
  return /^[ \t]*\r?\n[ \t]*$/.test(text.slice(comment.end, statement.getStart(file)));
}
