import type { Command } from 'commander';
import { budgetForms, parseBudget } from '../../agent/core/budget.js';
import { selectorForms } from '../selector.js';
import type { BudgetRule } from '../server/desired.js';
import type { BudgetAnswer } from '../server/fleet.js';
import type { WhatIfAnswer } from '../server/predictions.js';
import {
  addClientOptions,
  budgetText,
  type ClientFlags,
  clientOf,
  inBytes,
  inUnit,
  printJson,
  printTable,
} from './common.js';

/** Adds `budget set`, `budget what-if`, `budget show` and `budget list`. */
export function registerBudget(program: Command, environment: NodeJS.ProcessEnv): void {
  const budget = program
    .command('budget')
    .description(
      "budgets by selector: a device's own comes before a group's or label's, that before \"all\", that before the release's",
    );
  const set = budget
    .command('set')
    .description('sets the budget of the devices that a selector names')
    .argument('<selector>', selectorForms)
    .argument('<budget>', `comma list of ${budgetForms}; "none" for no limits`);
  addClientOptions(set, environment)
    .addHelpText('after', '\nExample:\n  fleet budget set group=drones latency=12ms,drop=1%')
    .action(async (selector: string, text: string, flags: ClientFlags) => {
      const wanted = parseBudget(text === 'none' ? '' : text);
      const body = { selector, budget: wanted };
      const { devices } = await (await clientOf(flags)).send<{ devices: string[] }>('PUT', '/v1/budgets', body);
      if (flags.json) printJson({ selector, budget: wanted, devices });
      else
        process.stdout.write(
          `${budgetText(wanted)} is wanted on ${devices.length === 0 ? 'no device that runs a release now' : devices.join(', ')}\n`,
        );
    });
  const whatIf = budget
    .command('what-if')
    .description('predicts who would meet a budget, from what devices have measured and planned; changes nothing')
    .argument('<selector>', selectorForms)
    .argument('<budget>', `comma list of ${budgetForms}`);
  addClientOptions(whatIf, environment).action(async (selector: string, text: string, flags: ClientFlags) => {
    const body = { selector, budget: parseBudget(text) };
    const answer = await (await clientOf(flags)).send<WhatIfAnswer>('POST', '/v1/budgets/what-if', body);
    if (flags.json) return printJson(answer);
    if (answer.devices.length === 0) {
      process.stdout.write(`no device of ${answer.selector} runs a release\n`);
      return;
    }
    printTable(
      ['hardware class', 'meets', 'infeasible', 'unknown', 'unaffected'],
      answer.classes.map(({ hardwareClass, verdicts }) => [
        hardwareClass,
        verdicts.meets,
        verdicts.infeasible,
        verdicts.unknown,
        verdicts.unaffected,
      ]),
    );
    process.stdout.write('\n');
    printTable(
      ['device', 'target', 'release', 'verdict', 'by', 'why'],
      answer.devices.map(({ id, target, release, verdict, basis, why }) => [
        id,
        target,
        release,
        verdict,
        verdict === 'unaffected' ? '-' : basis,
        why,
      ]),
    );
    for (const { hardwareClass, frontiers } of answer.classes) {
      for (const { target, release, unit, points } of frontiers) {
        process.stdout.write(`\n${hardwareClass}, ${target}: what there is to choose from for ${release}\n`);
        printTable(
          ['latency', 'sensitivity', 'size', 'weight bits'],
          points.map(({ latency, sensitivity, sizeBytes, averageWeightBits }) => [
            inUnit(latency, unit),
            sensitivity.toExponential(1),
            inBytes(sizeBytes),
            averageWeightBits.toFixed(1),
          ]),
        );
      }
    }
  });
  const show = budget
    .command('show')
    .description('what was set for a selector, and what holds on its devices')
    .argument('<selector>', selectorForms);
  addClientOptions(show, environment).action(async (selector: string, flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<BudgetAnswer>('/v1/budgets', { selector });
    if (flags.json) return printJson(answer);
    process.stdout.write(
      `${answer.selector}: ${answer.budget === null ? 'nothing was set' : budgetText(answer.budget)}\n\n`,
    );
    printTable(
      ['device', 'budget', 'by'],
      answer.devices.map(({ id, budget: holds, rule }) => [id, budgetText(holds), rule]),
    );
    if (answer.history.length > 1) {
      process.stdout.write('\nearlier, newest first:\n');
      const earlier = [...answer.history].reverse().slice(1);
      printTable(
        ['since', 'budget'],
        earlier.map(({ createdAt, budget: was }) => [createdAt, budgetText(was)]),
      );
    }
  });

  const list = budget
    .command('list')
    .description('every budget that was ever set, newest first; the first of a selector holds');
  addClientOptions(list, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<{ rules: (BudgetRule & { createdAt: string })[] }>(
      '/v1/budgets/rules',
    );
    if (flags.json) return printJson(answer);
    printTable(
      ['since', 'selector', 'budget'],
      answer.rules.map(({ createdAt, selector, budget: was }) => [createdAt, selector, budgetText(was)]),
    );
  });
}
